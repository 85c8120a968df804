"""Stages as Triton Python-backend models. The only module that knows `triton_python_backend_utils`.

Source of the interface: the README of Triton's Python backend.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import triton_python_backend_utils as pb_utils  # exists only inside Triton's stub process
from numpy.typing import NDArray

from tritext.access import Guard
from tritext.admission import Meter
from tritext.calls import Calls, number
from tritext.engines.remote import connect
from tritext.errors import EngineError, InvalidInput, Overloaded, TritextError
from tritext.stages.base import (
    DESCRIPTIONS,
    REQUEST_ID,
    STEP_SECONDS,
    Answer,
    Count,
    Counting,
    Counts,
    Request,
    Stage,
    fault,
    process_isolated,
    refusal,
    zeros,
)
from tritext.stages.told import AccessLines, headed

_TOLD_EVERY: Final = 0.5  # seconds
_LEVELS: Final = {logging.DEBUG: "log_verbose", logging.INFO: "log_info", logging.WARNING: "log_warn"}


class StageModel:
    """Base of each ``TritonPythonModel``: a subclass names its `stage`."""

    stage: ClassVar[type[Stage]]

    def initialize(self, args: dict[str, str]) -> None:
        """Called once, when Triton loads the model."""
        logging.getLogger("tritext").addHandler(_TritonLog(args["model_name"]))
        self._access_lines = AccessLines.wanted(args["model_name"])
        connect(_call)
        self._guard = Guard.from_environment()
        self._calls = Calls.from_environment()
        folder = Path(args["model_repository"]) / args["model_version"]
        self._stage = self.stage.load(folder)
        config = json.loads(args["model_config"])
        self._counts = self._stage.counts if isinstance(self._stage, Counting) else zeros()
        self._counts |= zeros(STEP_SECONDS)
        elsewhere = getattr(self._stage, "counted_elsewhere", dict)
        self._counters = _Counters(args["model_name"], self._counts, elsewhere, getattr(self._stage, "meter", None))
        self._outputs = [tensor["name"] for tensor in config["output"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Called with every batch; one response for each request, in order."""
        began = time.monotonic()
        read = [self._read(request) for request in requests]
        readable = [request for request in read if isinstance(request, Request)]
        processed = iter(process_isolated(self._stage, readable) if readable else [])
        answers = [next(processed) if isinstance(request, Request) else request for request in read]
        if self._access_lines:
            self._access_lines.write([_id(request) for request in requests], answers, began)
        responses = [self._response(answer, request) for answer, request in zip(answers, requests, strict=True)]
        self._counts[STEP_SECONDS] += time.monotonic() - began
        return responses

    def finalize(self) -> None:
        """Called once, when Triton unloads the model."""
        self._counters.stop()

    def _read(self, request: Any) -> Request | TritextError:
        try:
            sent = request.parameters()
            parameters = json.loads(sent) if sent and sent != "{}" else {}
            self._guard.admit(parameters)
            call = number(parameters.pop(self._calls.header, None)) if self._calls else 0
            inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            timeout = request.timeout() / 1e6 or None  # microseconds, 0: none
            is_given_up = self._calls is not None and self._calls.is_given_up(call)
            return Request(inputs, parameters, timeout, _id(request), call, is_given_up)
        except InvalidInput as error:
            return error
        except Exception as error:  # noqa: BLE001 - what leaves `execute` would fail the whole batch
            return fault(self._stage, error, _id(request))

    def _response(self, answer: Answer | TritextError, request: Any) -> Any:
        if not isinstance(answer, TritextError):
            try:
                return pb_utils.InferenceResponse(
                    [pb_utils.Tensor(name, np.ascontiguousarray(answer[name])) for name in self._outputs]
                )
            except Exception as error:  # noqa: BLE001 - as above
                answer = fault(self._stage, error, _id(request))
        count = refusal(answer)
        if count is not None and count in self._counts:
            self._counts[count] += 1
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answer), _code(answer)))


def _id(request: Any) -> str:
    """What its caller calls it; nothing where that is no UTF-8, which Triton lets through over HTTP."""
    try:
        return str(request.request_id())
    except UnicodeDecodeError:
        return ""


def _code(error: TritextError) -> Any:
    if isinstance(error, InvalidInput):
        return pb_utils.TritonError.INVALID_ARG
    return pb_utils.TritonError.UNAVAILABLE if isinstance(error, Overloaded) else pb_utils.TritonError.INTERNAL


def _call(model: str, arrays: Mapping[str, NDArray[Any]], output: str) -> NDArray[np.float32]:
    """Ask another model of this server; its answer comes back to the processor's memory."""
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=[output],
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in arrays.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        raise EngineError(f"{model} fails: {response.error().message()}")
    answer: NDArray[np.float32] = pb_utils.get_output_tensor_by_name(response, output).as_numpy()
    return answer


class _Counters:
    """A step's counts among Triton's own metrics, some moments late; `elsewhere` gives what others counted for it.

    Each of them costs Triton a message between processes, so a thread of their own brings them there. It also gives
    the step's signs of life, where somebody waits for them.
    """

    def __init__(self, model: str, counts: Counts, elsewhere: Callable[[], Counts], meter: Meter | None) -> None:
        self._counts, self._elsewhere, self._meter = counts, elsewhere, meter
        self._told = zeros(*counts)
        self._stopped = threading.Event()
        names = {count.name for count in counts}
        self._families = {name: _family(f"tritext_{name}_total", DESCRIPTIONS[name]) for name in names}
        self._metrics = {count: self._families[count.name].Metric(labels=_labels(model, count)) for count in counts}
        self._thread = threading.Thread(target=self._run, name="tritext counters", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell the last of them."""
        self._stopped.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        telling = True
        while not self._stopped.wait(_TOLD_EVERY):
            if self._meter:
                self._meter.beat()
            telling = telling and self._tell()
        self._tell()

    def _tell(self) -> bool:
        """Whether there is somebody to be told."""
        try:
            more = self._elsewhere()
            for count, own in list(self._counts.items()):
                value = own + more.get(count, 0.0)
                if grown := value - self._told[count]:
                    self._metrics[count].increment(grown)
                self._told[count] = value
        except Exception as error:  # noqa: BLE001 - Triton is ending, or has no metrics: nobody is left to be told
            logging.getLogger("tritext").info("Counting ends: %s", error)
            return False
        return True


def _labels(model: str, count: Count) -> dict[str, str]:
    return {"model": model, "reason": count.reason} if count.reason else {"model": model}


def _family(name: str, description: str) -> Any:
    """Must live as long as its metrics do."""
    kind = pb_utils.MetricFamily.COUNTER  # there only once the stub has loaded the model's module
    return pb_utils.MetricFamily(name=name, description=description, kind=kind)


class _TritonLog(logging.Handler):
    """Sends records to Triton's own log, under the name of the `step`."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self._step = step

    def emit(self, record: logging.LogRecord) -> None:
        write = getattr(pb_utils.Logger, _LEVELS.get(record.levelno, "log_error"))
        write(headed(self._step, getattr(record, REQUEST_ID, ""), self.format(record)))
