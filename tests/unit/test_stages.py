"""One request never harms another: not in a stage, not at Triton's edge."""

import json
import logging
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from building import text_inputs
from tritext import contract, errors
from tritext.errors import EngineError, InvalidInput, Overloaded, StageFault, TritextError
from tritext.pipeline import Pipeline, Trace
from tritext.repository import BuiltModel, committed
from tritext.settings import EngineSettings, TaskSettings
from tritext.stages.base import (
    REFUSED_EXPIRED,
    REFUSED_INVALID,
    REFUSED_OVERLOAD,
    TRUNCATIONS,
    Answer,
    Request,
    process_isolated,
    zeros,
)
from tritext.stages.tokenizer import TokenizerStage
from tritext.stages.told import unheaded


class Panic(BaseException):
    """Like pyo3's, which is no Exception."""


class Stage:
    """Answers [[value]] for each request, and raises as soon as one asks for it; `calls` holds the batch sizes."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    @classmethod
    def load(cls, _folder: Path) -> Self:
        return cls()

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        self.calls.append(len(requests))
        for request in requests:
            if "raise" in request.parameters:
                raise request.parameters["raise"]
        return [{"OUT": np.array([[request.parameters["value"]]])} for request in requests]


def good(value: int) -> Request:
    return Request({}, {"value": value})


def bad(error: BaseException) -> Request:
    return Request({}, {"raise": error})


def shown(answers: Sequence[Answer | TritextError]) -> list[Any]:
    return [answer if isinstance(answer, TritextError) else answer["OUT"].item() for answer in answers]


def test_a_batch_without_trouble_is_processed_once() -> None:
    stage = Stage()
    assert shown(process_isolated(stage, [good(1), good(2)])) == [1, 2]
    assert stage.calls == [2]


@pytest.mark.parametrize(
    "error", [ValueError("secret"), EngineError("secret"), MemoryError(), Panic("secret"), RecursionError()]
)
def test_only_the_culprit_fails(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    first, culprit, last = process_isolated(Stage(), [good(1), bad(error), good(3)])
    assert shown([first, last]) == [1, 3]
    assert isinstance(culprit, StageFault)
    assert str(culprit) == "The server failed in Stage; its log has the details."
    assert culprit.__cause__ is error
    (record,) = caplog.records  # the traceback is in the log, once, and nowhere else
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_request_that_is_at_fault_hears_why(caplog: pytest.LogCaptureFixture) -> None:
    error = InvalidInput("TEXT is no text.")
    assert shown(process_isolated(Stage(), [bad(error), good(2)])) == [error, 2]
    assert not caplog.records


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_end_is_an_end(error: BaseException) -> None:
    with pytest.raises(type(error)):
        process_isolated(Stage(), [good(1), bad(error)])


def test_nothing_goes_to_stderr_where_nobody_logs(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("tritext")
    logger.propagate = False
    try:
        process_isolated(Stage(), [bad(ValueError("secret"))])
    finally:
        logger.propagate = True
    assert capfd.readouterr().err == ""


# --- the whole chain ---------------------------------------------------------------------------------------------


class Poisoned:
    """A stage in front of which one kind of request breaks."""

    def __init__(self, stage: Any, error: BaseException) -> None:
        self._stage, self._error = stage, error

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        if any("poison" in request.parameters for request in requests):
            raise self._error
        return self._stage.process(requests)


@pytest.fixture
def model(repository: Path) -> BuiltModel:
    found = committed(repository, "texts")
    assert found is not None
    return found


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("error", [ValueError("secret"), Panic("secret")])
def test_a_fault_in_any_step_of_a_real_model(model: BuiltModel, position: int, error: BaseException) -> None:
    pipeline = Pipeline.load(model)
    stages = list(pipeline._stages)
    stages[position] = Poisoned(stages[position], error)
    requests = [Request(text_inputs([text])) for text in ("one", "two", "three and more")]
    expected = pipeline.run(requests)
    poisoned = [requests[0], Request(requests[1].inputs, {"poison": 1}), requests[2]]
    if position:  # the tokenizer judges parameters: only a stage behind it can see an unknown one
        stages[0] = Unjudging(stages[0])
    first, culprit, last = Pipeline(*stages).run(poisoned)
    assert isinstance(culprit, StageFault)
    assert "secret" not in str(culprit)
    assert "Traceback" not in str(culprit)
    for got, want in ((first, expected[0]), (last, expected[2])):
        assert isinstance(got, Trace)
        assert isinstance(want, Trace)
        assert got.tensors["LABEL"].tolist() == want.tensors["LABEL"].tolist()


class Unjudging:
    """The tokenizer stage, with the poison taken out of sight."""

    def __init__(self, stage: Any) -> None:
        self._stage = stage

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        return self._stage.process([Request(request.inputs) for request in requests])


def test_refused_requests_leave_their_neighbours_alone(model: BuiltModel) -> None:
    latin = {"TEXT": np.array([[b"\xff"]], dtype=np.object_)}
    requests = [
        Request(text_inputs(["fine"])),
        Request(latin),
        Request(text_inputs(["fine"]), {"top_k": "none"}),
        Request(text_inputs(["word " * 500]), {"truncation": "error"}),
        Request(text_inputs(["a", "b"], ["c"])),
        Request(text_inputs([])),
        Request(text_inputs(["fine"])),
    ]
    results = Pipeline.load(model).run(requests)
    assert [type(result) for result in results] == [Trace, *[InvalidInput] * 5, Trace]
    sentences = [str(result) for result in results[1:6]]
    expected = ["not valid UTF-8", "Parameter top_k", "this model takes 128", "TEXT_PAIR has 1 rows", "TEXT is empty"]
    assert all(part in sentence for part, sentence in zip(expected, sentences, strict=True))


def test_texts_that_are_cut_are_counted(model: BuiltModel) -> None:
    tokenizer = TokenizerStage.load(model.step("tokenizer"))
    tokenizer.process([Request(text_inputs(["word " * 500, "short"])), Request(text_inputs(["word " * 500]))])
    tokenizer.process([Request(text_inputs(["short"]))])
    assert tokenizer.counts[TRUNCATIONS] == 2


def test_a_pipeline_of_refused_requests_alone(model: BuiltModel) -> None:
    results = Pipeline.load(model).run([Request(text_inputs(["x"]), {"nonsense": 1})])
    assert isinstance(results[0], InvalidInput)


# --- files that are damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", '{"engine": "openvino"}', '{"unknown": 1}'])
@pytest.mark.parametrize("kind", [TaskSettings, EngineSettings])
def test_damaged_settings(tmp_path: Path, content: str | None, kind: Any) -> None:
    if content is not None:
        (tmp_path / "settings.json").write_text(content)
    with pytest.raises(errors.RepositoryError, match=r"settings\.json cannot be read .* Build the model again"):
        kind.read(tmp_path)


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    settings = TaskSettings("t", ("é", "b"), None, 8, ("input_ids",), 0, None, {"top_k": "2"})
    settings.write(tmp_path)
    assert TaskSettings.read(tmp_path) == settings


# --- Triton's edge -----------------------------------------------------------------------------------------------


class FakeTensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self.array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        if isinstance(self.array, Exception):
            raise self.array
        return self.array


class FakeError(Exception):
    INVALID_ARG, INTERNAL, UNAVAILABLE = "INVALID_ARG", "INTERNAL", "UNAVAILABLE"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class FakeResponse:
    def __init__(self, tensors: Sequence[FakeTensor] = (), error: FakeError | None = None) -> None:
        self.tensors, self.error = tensors, error


class FakeRequest:
    def __init__(self, parameters: str = "{}", **tensors: Any) -> None:
        self._parameters = parameters
        self.tensors = tensors
        self.id = ""

    def parameters(self) -> str:
        return self._parameters

    def inputs(self) -> list["FakeTensor"]:
        return [FakeTensor(name, array) for name, array in self.tensors.items()]

    def timeout(self) -> int:
        return 0

    def request_id(self) -> str:
        return self.id


class FakeFamily:
    """A MetricFamily; `told` has what each of its metrics came to, by its labels."""

    COUNTER = "counter"
    told: ClassVar[dict[str, float]] = {}

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        assert kind == self.COUNTER
        self._name = name

    def Metric(self, labels: dict[str, str]) -> Any:  # noqa: N802 - Triton's name
        key = f"{self._name} {' '.join(labels.values())}"
        self.told[key] = 0.0
        return types.SimpleNamespace(increment=lambda value: self.told.update({key: self.told[key] + value}))


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type], Any]]:
    """A loaded model of the given stage, with inputs IN and MAYBE, and the output OUT."""
    fake: Any = types.ModuleType("triton_python_backend_utils")
    fake.lines = []
    fake.Tensor, fake.TritonError, fake.InferenceResponse = FakeTensor, FakeError, FakeResponse
    fake.MetricFamily = FakeFamily
    FakeFamily.told.clear()
    fake.Logger = types.SimpleNamespace(log_error=fake.lines.append, log_warn=fake.lines.append)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.delitem(sys.modules, "tritext.stages.adapter", raising=False)
    logger = logging.getLogger("tritext")
    before = list(logger.handlers)

    models: list[Any] = []

    def load(stage: type) -> Any:
        from tritext.stages.adapter import StageModel

        model = type("TritonPythonModel", (StageModel,), {"stage": stage})()
        config = {"input": [{"name": "IN"}, {"name": "MAYBE"}], "output": [{"name": "OUT"}]}
        names = {"model_name": "spam_tokenizer_0000abcd", "model_repository": "x", "model_version": "1"}
        model.initialize({**names, "model_config": json.dumps(config)})
        models.append(model)
        model.lines = fake.lines
        return model

    yield load
    for model in models:
        model.finalize()
    logger.handlers[:] = before
    sys.modules.pop("tritext.stages.adapter", None)


class Echo(Stage):
    """Gives back IN, or "lost" where that is asked for; refuses or breaks where that is asked for."""

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        self.seen = list(requests)
        if any(request.parameters.get("break") for request in requests):
            raise ValueError("secret")
        return [
            InvalidInput("IN is wrong.") if request.parameters.get("refuse")
            else {"lost" if request.parameters.get("lose") else "OUT": request.inputs["IN"]}
            for request in requests
        ]  # fmt: skip


def test_each_request_gets_its_own_response(adapter: Callable[[type], Any]) -> None:
    model = adapter(Echo)
    ones, twos = np.ones((1, 1)), np.full((2, 1), 2)
    responses = model.execute(
        [
            FakeRequest(IN=ones, MAYBE=twos),
            FakeRequest('{"refuse": true}', IN=ones),
            FakeRequest('{"break": true}', IN=ones),
            FakeRequest('{"lose": true}', IN=ones),
            FakeRequest("not JSON", IN=ones),
            FakeRequest(IN=ValueError("secret")),
            FakeRequest("", IN=twos[:, ::-1]),
        ]
    )
    assert responses[0].tensors[0].array is not None
    assert responses[-1].tensors[0].array.tolist() == twos.tolist()
    assert responses[-1].tensors[0].array.flags.c_contiguous
    refused, *broken = [response.error for response in responses[1:-1]]
    assert (refused.code, refused.message) == ("INVALID_ARG", "IN is wrong.")
    assert {error.code for error in broken} == {"INTERNAL"}
    assert {error.message for error in broken} == {"The server failed in Echo; its log has the details."}
    assert sum("Traceback" in line for line in model.lines) == len(broken)


@pytest.mark.parametrize("parameters", ['{"break": true}', '{"lose": true}', "not JSON"])
def test_the_log_and_the_caller_learn_which_request_failed(adapter: Callable[[type], Any], parameters: str) -> None:
    request = FakeRequest(parameters, IN=np.ones((1, 1)))
    request.id = 'a "quoted"\nid'
    model = adapter(Echo)
    (response,) = model.execute([request])
    assert response.error.message.endswith(f"details, under request id {request.id}.")
    step, request_id, message = unheaded(model.lines[-1])
    assert (step, request_id) == ("spam_tokenizer_0000abcd", request.id)
    assert message.startswith("Echo failed on a request\nTraceback")


def test_what_was_not_sent_is_not_among_the_inputs(adapter: Callable[[type], Any]) -> None:
    model = adapter(Echo)
    model.execute([FakeRequest('{"top_k": 2}', IN=np.ones((1, 1)))])
    (seen,) = model._stage.seen
    assert set(seen.inputs) == {"IN"}
    assert seen.parameters == {"top_k": 2}


class Choosy(Stage):
    """Refuses what has a parameter `refuse`, for the reason that is its value."""

    def __init__(self) -> None:
        self.counts = zeros(REFUSED_INVALID, REFUSED_OVERLOAD, REFUSED_EXPIRED)

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        errors = {
            "invalid": InvalidInput("IN is wrong."),
            "overload": Overloaded("Too much. Try again in 1 s."),
            "expired": Overloaded("Too late.", misses_deadline=True),
        }
        return [errors[str(request.parameters["refuse"])] for request in requests]


def test_refusals_have_a_code_and_are_counted_by_reason(adapter: Callable[[type], Any]) -> None:
    model = adapter(Choosy)
    reasons = ["invalid", "overload", "overload", "expired"]
    responses = model.execute([FakeRequest(json.dumps({"refuse": reason}), IN=np.ones((1, 1))) for reason in reasons])
    assert [response.error.code for response in responses] == ["INVALID_ARG", *["UNAVAILABLE"] * 3]
    assert responses[1].error.message == "Too much. Try again in 1 s."
    model.finalize()
    told = dict(FakeFamily.told)
    assert told.pop("tritext_step_seconds_total spam_tokenizer_0000abcd") > 0
    assert told == {
        f"tritext_refusals_total spam_tokenizer_0000abcd {reason}": reasons.count(reason) for reason in set(reasons)
    }


def test_unreadable_requests_alone(adapter: Callable[[type], Any]) -> None:
    (response,) = adapter(Echo).execute([FakeRequest("[", IN=np.ones((1, 1)))])
    assert response.error.code == "INTERNAL"


def test_texts_beyond_all_measure_are_refused_before_they_are_tokenized(repository: Path) -> None:
    model = committed(repository, "texts")
    assert model is not None
    stage = TokenizerStage.load(model.step("tokenizer"))
    large = Request(text_inputs(["a " * (contract.MOST_BYTES // 4), "a " * (contract.MOST_BYTES // 4 + 1)]), {})
    refused, answered = stage.process([large, Request(text_inputs(["Hello"]), {})])
    assert isinstance(refused, InvalidInput)
    assert "bytes, and 67,108,864 are the most" in str(refused)
    assert isinstance(answered, dict)
