"""What is shown of Triton's log, and the reason that is found in it. The lines are Triton 2.51's own."""

import pytest

from tritext.cli.serve import Level
from tritext.serve.log import LEVELS, Log, LogLevel

LOADING = 'I1122 11:43:10.060929 10680 model_lifecycle.cc:472] "loading: toy_encoder_0000abcd:1"'
LOADED = "I1122 11:43:11.702181 10680 model_lifecycle.cc:839] \"successfully loaded 'toy_encoder_0000abcd'\""
NO_INSTANCE = (
    'E1122 11:43:11.760141 10680 backend_model.cc:692] "ERROR: Failed to create instance: RuntimeError: no engine'
    '\\n\\nAt:\\n  ./toy_encoder_0000abcd/1/model.py(5): initialize\\n"'
)
NOT_LOADED = (
    "E1122 11:43:11.760266 10680 model_lifecycle.cc:642] \"failed to load 'toy_encoder_0000abcd' version 1: "
    'Internal: RuntimeError: no engine\\n\\nAt:\\n  ./toy_encoder_0000abcd/1/model.py(5): initialize\\n"'
)
DEPENDS = (
    "E1122 11:43:11.760480 10680 model_repository_manager.cc:703] \"Invalid argument: ensemble 'toy' depends on "
    "'toy_encoder_0000abcd' which has no loaded version.\""
)
NO_CONFIG = (
    'E1122 11:43:43.389904 12411 model_repository_manager.cc:1460] "Poll failed for model directory '
    "'toy_encoder_0000abcd': failed to read text proto from ./toy_encoder_0000abcd/config.pbtxt\""
)
NO_CODE = (
    "I1122 11:43:27.503117 12231 pb_stub.cc:2105]  Failed to preinitialize Python stub: Python model file not found "
    "in './toy_encoder_0000abcd/1/model.py'"
)
NO_LIBRARY = "triton_python_backend_stub: error while loading shared libraries: libpython3.11.so.1.0: cannot open"
CREATING = "error: creating server: Internal - failed to load all models"
HEADING = "I1122 11:43:11.760675 10680 server.cc:604]"
TABLE = ["+------+", "| toy  | UNAVAILABLE |", ""]
NO_GPU = 'E1122 11:39:00.642553 5063 server.cc:241] "CudaDriverHelper has not been initialized."'
BUILDS = (
    "W1122 11:39:02.445699 5063 model_lifecycle.cc:111] \"ignore version directory 'builds' which fails to convert "
    'to integral number"'
)
REAL_WARNING = 'W1122 11:39:02.445699 5063 somewhere.cc:1] "a real warning"'
VERBOSE = "V1122 11:39:02.445699 5063 somewhere.cc:1] what only a developer reads"
PRINTED = "UserWarning: from a step's own Python"


def feed(*lines: str, level: LogLevel = "warning") -> tuple[Log, list[str]]:
    shown: list[str] = []
    log = Log(level, shown.append)
    for line in lines:
        log.feed(line)
    return log, shown


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("error", [NOT_LOADED]),
        ("warning", [NOT_LOADED, REAL_WARNING, PRINTED]),
        ("info", [NOT_LOADED, REAL_WARNING, PRINTED, LOADED, HEADING, *TABLE]),
        ("debug", [NOT_LOADED, REAL_WARNING, PRINTED, LOADED, HEADING, *TABLE, VERBOSE]),
    ],
)
def test_each_level_shows_itself_and_what_is_worse(level: LogLevel, expected: list[str]) -> None:
    _, shown = feed(NOT_LOADED, REAL_WARNING, PRINTED, LOADED, HEADING, *TABLE, VERBOSE, level=level)
    assert shown == expected


def test_what_every_start_says_is_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritext.serve.log.GPU", type("Absent", (), {"exists": lambda: False}))
    log, shown = feed(BUILDS, NO_GPU)
    assert (shown, log.tail()) == ([], [])


def test_with_a_gpu_a_cuda_error_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritext.serve.log.GPU", type("Present", (), {"exists": lambda: True}))
    log, shown = feed(BUILDS, NO_GPU)
    assert shown == log.tail() == [NO_GPU]


def test_the_tail_has_no_tables_and_its_count_of_lines() -> None:
    log, _ = feed(*(f"line {i}" for i in range(500)), HEADING, *TABLE, LOADED)
    assert log.tail(3) == ["line 498", "line 499", LOADED]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([NO_INSTANCE, NOT_LOADED, DEPENDS, CREATING], "toy_encoder_0000abcd: RuntimeError: no engine"),
        (
            [NO_CONFIG, DEPENDS, CREATING],
            "toy_encoder_0000abcd: failed to read text proto from ./toy_encoder_0000abcd/config.pbtxt",
        ),
        ([LOADING, NO_CODE], "Python model file not found in './toy_encoder_0000abcd/1/model.py'"),
        ([LOADING, NO_LIBRARY], "error while loading shared libraries: libpython3.11.so.1.0: cannot open"),
    ],
)
def test_the_reason_is_the_line_nearest_to_the_cause(lines: list[str], reason: str) -> None:
    for order in (lines, lines[::-1]):
        log, _ = feed(*order)
        assert log.reason == reason
        assert log.hopeless


def test_a_start_is_not_hopeless_without_a_cause() -> None:
    log, _ = feed(LOADING, REAL_WARNING, LOADED)
    assert (log.reason, log.hopeless) == (None, False)


def test_a_port_that_was_taken_meanwhile_is_a_reason() -> None:
    log, _ = feed("E1122 11:48:11.118919895   14781 chttp2_server.cc:1060] UNKNOWN: bind: Address already in use, 98")
    assert log.reason == "Address already in use"


def test_what_is_still_loading_is_known() -> None:
    log, _ = feed(LOADING, LOADING.replace("encoder", "tokenizer"), LOADED)
    assert log.pending == ["toy_tokenizer_0000abcd"]


def test_a_closed_terminal_does_not_stop_the_log() -> None:
    def closed(line: str) -> None:
        raise BrokenPipeError

    log = Log("debug", closed)
    log.feed(REAL_WARNING)
    log.feed(NOT_LOADED)
    assert log.tail() == [REAL_WARNING, NOT_LOADED]


def test_the_command_offers_every_level() -> None:
    assert tuple(Level) == LEVELS
