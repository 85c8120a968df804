"""An engine on half of the cores: made when it is first wanted, checked like any other, and used between equals."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from building import JUDGED, quick_build
from tritext.build.gate import Bounds
from tritext.engines import engine_named
from tritext.engines.base import Runner, RunnerOptions
from tritext.engines.batching import Sorted
from tritext.engines.half import Half, halved
from tritext.engines.turns import TURNS, Turn
from tritext.errors import EngineError
from tritext.manifest import CHECK, read_reference, write_reference
from tritext.settings import EngineSettings
from tritext.stages.base import Request
from tritext.stages.encoder import EncoderStage
from waiting import until


class Fake:
    """An engine that takes 20 ms for nothing."""

    uses_cores = True

    def __init__(self) -> None:
        self.calls = 0

    def run(self, arrays: Any) -> Any:
        time.sleep(0.02)
        self.calls += 1
        return np.zeros((*arrays["input_ids"].shape, 2), dtype=np.float32)


def when_made(half: Half) -> Runner | None:
    """What it has, once its thread is done."""
    half.runner()
    for thread in threading.enumerate():
        if thread.name == "half":
            thread.join()
    return half.runner()


def test_nobody_waits_until_it_is_made_and_it_is_made_once() -> None:
    made, go = [Fake()], threading.Event()

    def make() -> Runner:
        go.wait()
        return made.pop()

    half = Half(make)
    assert half.runner() is None
    assert half.runner() is None
    go.set()
    runner = when_made(half)
    assert isinstance(runner, Fake)
    assert half.runner() is runner


@pytest.mark.parametrize("error", [EngineError("no room"), PermissionError("no room")])
def test_where_it_cannot_be_made_that_is_said_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Runner:
        raise error

    half = Half(make)
    assert when_made(half) is None
    assert when_made(half) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no room" in caplog.text


@pytest.mark.parametrize(
    ("engine", "threads", "streams", "expected"),
    [
        ("openvino", 2, 1, (1, 1)),
        ("onnxruntime", 5, 1, (2, 1)),
        ("openvino", 16, 2, (8, 1)),
        ("openvino", 32, 4, (16, 2)),
        ("openvino", 1, 1, None),
        ("torch", 8, 1, None),  # the number of threads is its process's
        ("tensorrt", 8, 1, None),
    ],
)
def test_half_of_the_threads(engine: str, threads: int, streams: int, expected: tuple[int, int] | None) -> None:
    options = halved(engine_named(engine), RunnerOptions("fp32", threads, streams, {"a": "b"}))
    assert (options and (options.threads, options.streams)) == expected
    assert options is None or (options.engine, options.bound) == ({"a": "b"}, False)


@pytest.mark.parametrize("cores", [1, 4])
def test_where_nothing_else_is_said_it_is_half_of_the_machine(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritext.engines.half.usable_cores", lambda: cores)
    options = halved(engine_named("openvino"), RunnerOptions("fp32"))
    assert (options and options.threads) == (2 if cores == 4 else None)


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def folder(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built encoder step."""
    options: dict[str, Any] = {"engine": request.param, "precision": "fp32", "texts": JUDGED}
    place = tmp_path_factory.mktemp("half")
    return quick_build(checkpoint, place, "m", bounds=Bounds(0.0, 1.0), **options).model.step("encoder")


@pytest.fixture
def stage(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EncoderStage:
    """That of a machine with two cores, of an encoder that takes turns."""
    monkeypatch.setenv(TURNS, str(tmp_path))
    monkeypatch.setattr("tritext.engines.half.usable_cores", lambda: 2)
    return EncoderStage.load(folder)


def logits(stage: EncoderStage) -> NDArray[np.float32]:
    answers = stage.process([request(1, size) for size in (5, 40, 120, 17)])
    return np.concatenate([answer["logits"] for answer in answers if isinstance(answer, dict)])


def request(texts: int, tokens: int) -> Request:
    ids = np.tile(np.arange(5, 5 + tokens, dtype=np.int32), (texts, 1))
    return Request({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})


def test_between_equals_it_answers_what_the_whole_answers(stage: EncoderStage, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = 0

    @contextmanager
    def counted(turn: Turn) -> Iterator[None]:
        nonlocal beside
        with original(turn):
            beside += 1
            yield

    original = Turn.beside
    monkeypatch.setattr(Turn, "beside", counted)
    expected = logits(stage)
    assert beside == 0
    monkeypatch.setattr(Turn, "prefers_half", lambda _: True)
    np.testing.assert_allclose(logits(stage), expected, rtol=0, atol=1e-4)
    assert beside == 0  # the whole answered, for the half was not there yet
    assert stage.half is not None
    assert when_made(stage.half) is not None
    np.testing.assert_allclose(logits(stage), expected, rtol=0, atol=1e-4)
    assert beside == 1


def test_one_that_gives_other_answers_is_not_used(
    stage: EncoderStage, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    examples = read_reference(folder, CHECK)
    write_reference(folder, [replace(example, logits=example.logits + 10) for example in examples], CHECK)
    try:
        monkeypatch.setattr(Turn, "prefers_half", lambda _: True)
        assert stage.half is not None
        assert when_made(stage.half) is None
        assert "It is wrong on this machine" in caplog.text
        assert len(logits(stage)) == 4
    finally:
        write_reference(folder, examples, CHECK)


def test_two_that_are_busy_come_to_halve_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do in processes of their own; one that is alone again has all of it."""
    monkeypatch.setenv(TURNS, str(tmp_path))
    settings = EngineSettings(("input_ids", "attention_mask"), 0, False, ())
    stages = [EncoderStage(settings, Fake(), Sorted(64)) for _ in range(2)]
    halves = [Fake(), Fake()]
    for stage, fake in zip(stages, halves, strict=True):
        stage.half = Half(partial(lambda each: each, fake))
    stopping = [threading.Event(), threading.Event()]

    def work(stage: EncoderStage, stop: threading.Event) -> None:
        while not stop.is_set():
            stage.process([request(1, 8)])

    threads = [threading.Thread(target=work, args=each) for each in zip(stages, stopping, strict=True)]
    turns = [stage._turn for stage in stages]
    for thread in threads:
        thread.start()
    try:
        until(lambda: all(turn.prefers_half() for turn in turns) and all(half.calls > 20 for half in halves))
        stopping[1].set()
        threads[1].join()
        until(lambda: not turns[0].prefers_half())
    finally:
        for stop in stopping:
            stop.set()
        for thread in threads:
            thread.join()
