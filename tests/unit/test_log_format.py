"""A server's log as JSON, and the access log, out of lines of Triton 2.51 and of the steps."""

import io
import json
from typing import Any

import pytest

from tritext.errors import InvalidInput, StageFault
from tritext.serve import access_log
from tritext.serve.access_log import AccessLog
from tritext.serve.log import Log, LogLevel
from tritext.serve.log_format import JsonFormat, JsonStream, TextFormat
from tritext.stages import told
from tritext.stages.told import AccessLines, headed

STEP = "spam_encoder_0000abcd"


def triton(severity: str, message: str) -> str:
    return f"{severity}1122 11:43:10.060929 10680 adapter.py:145] {json.dumps(message)}"


def shown(line: str, level: LogLevel = "debug") -> list[dict[str, Any]]:
    lines: list[str] = []
    Log(level, lines.append, JsonFormat()).feed(line)
    return [json.loads(each) for each in lines]


@pytest.mark.parametrize(("severity", "level"), [("E", "error"), ("W", "warning"), ("I", "info"), ("F", "error")])
def test_a_line_of_triton(severity: str, level: str) -> None:
    (record,) = shown(triton(severity, 'one\n"two"'))
    assert record.pop("time").endswith("Z")
    assert record == {"level": level, "source": "triton", "message": 'one\n"two"'}


@pytest.mark.parametrize("request_id", ["a1-7", 'quoted "] id\n', "é", ""])
def test_a_line_of_a_step_names_it_and_the_request(request_id: str) -> None:
    (record,) = shown(triton("E", headed(STEP, request_id, "It failed.\nTraceback")))
    assert (record["source"], record["message"]) == (STEP, "It failed.\nTraceback")
    assert record.get("request_id", "") == request_id


def test_tritons_own_way_to_name_a_request() -> None:
    assert shown(triton("E", "[request id: a1-7] no memory"))[0]["request_id"] == "a1-7"
    assert "request_id" not in shown(triton("E", "[request id: <id_unknown>] no memory"))[0]


def test_what_a_step_prints_is_a_warning_and_tables_are_left_out() -> None:
    assert shown("UserWarning: old")[0]["level"] == "warning"
    assert shown("| spam | 1 | READY |") == shown("+-----+") == shown("") == []


def test_levels_hold_for_json_too() -> None:
    assert shown(triton("I", "Started"), "warning") == []


def test_everything_else_becomes_json_line_by_line() -> None:
    out = io.StringIO()
    stream = JsonStream(out)
    for part in ("Ready in ", "2 s.\nerror: ", "No port.\n", "\n"):
        print(part, end="", file=stream)
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    found = [(record["level"], record["source"], record["message"]) for record in records]
    assert found == [("info", "tritext", "Ready in 2 s."), ("error", "tritext", "No port.")]


# --- the access log ----------------------------------------------------------------------------------------------


class Written:
    """What the steps write, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.raw: list[bytes] = []
        monkeypatch.setattr(told.os, "write", lambda _, content: self.raw.append(content))
        self._log = AccessLog()

    def step(self, role: str, ids: list[str], answers: list[Any]) -> list[dict[str, Any]]:
        """The records that are complete once the step has written."""
        before = len(self.raw)
        AccessLines(f"spam_{role}_0000abcd", 7).write(ids, answers, 0.0)
        lines = b"".join(self.raw[before:]).decode().splitlines()
        return [record for line in lines for record in self._log.take(line)]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    return Written(monkeypatch)


def counted(*tokens: int) -> dict[str, Any]:
    import numpy as np

    return {"TOKEN_COUNT": np.array([[each] for each in tokens])}


def test_a_request_is_told_of_when_its_last_step_has_answered(written: Written) -> None:
    assert written.step("tokenizer", ["a", "b"], [counted(3, 4), counted(5)]) == []
    assert written.step("encoder", ["a", "b"], [{}, {}]) == []
    (b,) = written.step("postprocess", ["b"], [{}])
    (a,) = written.step("postprocess", ["a"], [{}])
    assert a.pop("seconds") >= b.pop("seconds") > 0
    assert a == {"model": "spam", "request_id": "a", "texts": 2, "tokens": 7}
    assert b == {"model": "spam", "request_id": "b", "texts": 1, "tokens": 5}


def test_a_request_that_fails_is_told_of_where_it_fails(written: Written) -> None:
    (refused,) = written.step("tokenizer", ["a"], [InvalidInput("no")])
    assert (refused["error"], "texts" in refused) == ("InvalidInput", False)
    written.step("tokenizer", ["b"], [counted(3)])
    (failed,) = written.step("encoder", ["b"], [StageFault("no")])
    assert (failed["error"], failed["tokens"], failed["request_id"]) == ("StageFault", 3, "b")
    assert written.step("postprocess", ["b"], [{}]) == []


def test_a_request_without_an_id_is_told_of_at_once(written: Written) -> None:
    assert written.step("tokenizer", [""], [counted(3)]) == [{"model": "spam", "texts": 1, "tokens": 3}]
    assert written.step("postprocess", [""], [{}]) == []


def test_two_requests_with_one_id_are_two(written: Written) -> None:
    written.step("tokenizer", ["a", "a"], [counted(3), counted(4)])
    assert [record["tokens"] for record in written.step("postprocess", ["a", "a"], [{}, {}])] == [3, 4]


def test_what_never_ends_is_told_of_and_forgotten(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_MOST", 2)
    told_of = written.step("tokenizer", ["a", "b", "c"], [counted(1), counted(2), counted(3)])
    assert told_of == [{"model": "spam", "request_id": "a", "texts": 1, "tokens": 1}]


def test_no_line_is_torn_by_another_process(written: Written) -> None:
    written.step("tokenizer", ["x" * 1000] * 50, [counted(1)] * 50)
    assert all(len(content) <= 4096 and content.endswith(b"\n") for content in written.raw)
    assert len(written.raw) < 50


@pytest.mark.parametrize("line", ["", "{", "3", "{}", "null", '{"model": "spam", "id": null}'])
def test_a_line_that_nobody_can_read_is_left_out(line: str) -> None:
    assert AccessLog().take(line) == []


def test_callers_cannot_forge_lines_of_the_text_log() -> None:
    assert "\n" not in TextFormat().access({"model": "spam", "request_id": "a\naccess model=other"})
