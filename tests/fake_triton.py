"""A gRPC server that speaks Triton's protocol and makes up its answers, for tests of the client alone.

What it answers depends on the text and the parameters only: see `label_of`, `_answer_labels` and `_answer_entities`.
"""

import json
import re
import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

LABELS = ("ham", "spam", "eggs")


class Refusal(Exception):
    """Raised by a behaviour: the call ends with this status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    model: str
    texts: list[str]
    pairs: list[str] | None
    parameters: dict[str, Any]
    seconds_left: float | None
    timeout: int | None = None  # Triton's own parameter, microseconds
    id: str = ""
    candidates: list[str] = field(default_factory=list)  # of the first text


def label_of(text: str) -> str:
    """The label that the fake gives `text`: one that begins with it, else by its length."""
    named = [label for label in LABELS if text.startswith(label)]
    return named[0] if named else LABELS[len(text) % len(LABELS)]


@dataclass
class FakeTriton:
    """``with FakeTriton() as server: Client(server.address)``. `behave` sees each request before it is answered."""

    task: str = "text-classification"
    max_batch_size: int = 64
    behave: Callable[[Seen], None] = lambda _: None
    config_parameters: dict[str, str] | None = None
    port: int = 0
    keep: bool = True  # the requests, in `seen`
    seen: list[Seen] = field(default_factory=list)
    config_calls: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    abandoned: int = 0  # requests whose caller was gone when they were answered

    def __enter__(self) -> Self:
        self._lock = threading.Lock()
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._server = grpc.server(ThreadPoolExecutor(16), options=options)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Service(self), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def parameters(self) -> dict[str, str]:
        """What the ensemble's configuration carries."""
        if self.config_parameters is not None:
            return self.config_parameters
        return {"task": self.task, "labels": json.dumps(LABELS), "max_length": "128", "build": "3f9c01aa"}

    def infer(self, seen: Seen) -> Any:
        with self._lock:
            self.in_flight += 1
            self.most_in_flight = max(self.in_flight, self.most_in_flight)
            if self.keep:
                self.seen.append(seen)
        try:
            self.behave(seen)
            return _answer_entities(seen) if self.task == "token-classification" else _answer_labels(seen)
        finally:
            with self._lock:
                self.in_flight -= 1


class _Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(self, fake: FakeTriton) -> None:
        self._fake = fake

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self._fake.config_calls += 1
        if request.name == "absent":
            context.abort(grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'absent' is not found")
        response = service_pb2.ModelConfigResponse()
        response.config.name = request.name
        response.config.max_batch_size = self._fake.max_batch_size
        for name, value in self._fake.parameters().items():
            response.config.parameters[name].string_value = value
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        raw = {
            tensor.name: strings(raw) for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        texts, pairs, candidates = raw["TEXT"], raw.get("TEXT_PAIR"), raw.get("CANDIDATE_LABELS", [])
        for tensor in request.inputs:
            width = len(candidates) // len(texts) if tensor.name == "CANDIDATE_LABELS" else 1
            assert list(tensor.shape) == [len(texts), width]
            assert len(raw[tensor.name]) == len(texts) * width
        parameters = {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in
                      request.parameters.items()}  # fmt: skip
        timeout = parameters.pop("timeout", None)
        left = context.time_remaining()
        own = candidates[: len(candidates) // max(1, len(texts))]
        seen = Seen(request.model_name, texts, pairs, parameters, left, timeout, request.id, own)
        try:
            answer = self._fake.infer(seen)
        except Refusal as refusal:
            context.abort(refusal.code, refusal.details)
        self._fake.abandoned += not context.is_active()
        return answer


def strings(raw: bytes) -> list[str]:
    """A BYTES tensor's elements."""
    values, end = [], 0
    while end < len(raw):
        start = end + 4
        end = start + struct.unpack_from("<I", raw, end)[0]
        values.append(raw[start:end].decode())
    return values


def tensors(rows: int, **columns: tuple[str, Sequence[Sequence[Any]]]) -> Any:
    """A ModelInferResponse with each column, (datatype, rows), padded to its longest row."""
    response = service_pb2.ModelInferResponse()
    for name, (datatype, values) in columns.items():
        width = max((len(row) for row in values), default=0)
        fill = {"BYTES": "", "FP32": 0.0, "INT32": 0, "BOOL": False}[datatype]
        flat = [value for row in values for value in (*row, *[fill] * (width - len(row)))]
        response.outputs.add(name=name, datatype=datatype, shape=(rows, width))
        if datatype == "BYTES":
            raw = b"".join(struct.pack("<I", len(value.encode())) + value.encode() for value in flat)
        else:
            raw = struct.pack(f"<{len(flat)}{ {'FP32': 'f', 'INT32': 'i', 'BOOL': '?'}[datatype] }", *flat)
        response.raw_output_contents.append(raw)
    return response


def _report(seen: Seen) -> dict[str, Any]:
    counts = [len(text.split()) + 2 for text in seen.texts]
    return {
        "TOKEN_COUNT": ("INT32", [[count] for count in counts]),
        "TRUNCATED": ("BOOL", [[count > 128] for count in counts]),
    }


def _answer_labels(seen: Seen) -> Any:
    """top_k labels, the text's own first with 0.75; those below the threshold are left out."""
    wanted = seen.parameters.get("top_k", 1)
    rows = []
    for text in seen.texts:
        best = label_of(text)
        ranked = [(best, 0.75), *((label, 0.125) for label in LABELS if label != best)]
        kept = ranked[: len(LABELS) if wanted == "all" else int(wanted)]
        rows.append([pair for pair in kept if pair[1] >= seen.parameters.get("threshold", 0.0)])
    return tensors(
        len(rows),
        LABEL=("BYTES", [[label for label, _ in row] for row in rows]),
        SCORE=("FP32", [[score for _, score in row] for row in rows]),
        COUNT=("INT32", [[len(row)] for row in rows]),
        **_report(seen),
    )


def _answer_entities(seen: Seen) -> Any:
    """Each capitalised word is a NAME."""
    rows = [list(re.finditer(r"[A-ZÄÖÜ]\w*", text)) for text in seen.texts]
    return tensors(
        len(rows),
        LABEL=("BYTES", [["NAME"] * len(row) for row in rows]),
        SCORE=("FP32", [[0.5] * len(row) for row in rows]),
        WORD=("BYTES", [[match[0] for match in row] for row in rows]),
        START=("INT32", [[match.start() for match in row] for row in rows]),
        END=("INT32", [[match.end() for match in row] for row in rows]),
        COUNT=("INT32", [[len(row)] for row in rows]),
        **_report(seen),
    )


def slowly(seconds: float) -> Callable[[Seen], None]:
    """A behaviour: every request takes a while."""
    return lambda _: time.sleep(seconds)
