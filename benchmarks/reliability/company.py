"""Asking a server many things at once, and comparing what it says with what it says when it has nothing else to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import ModelInferResponse
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from benchmarks.reliability.requests import Asked
from tritext import contract

TIMEOUT: Final = 60.0  # seconds
_COLUMNS: Final = ("LABEL", "SCORE", "WORD", "START", "END")  # an entity each
_EXACT: Final = ("LABEL", "COUNT", "TOKEN_COUNT", "TRUNCATED", "START", "END", "WORD")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error: gRPC's name of its status, and the sentence."""

    code: str
    sentence: str


class Caller:
    """A connection over which requests go as they are, however wrong."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url, options=[("grpc.enable_http_proxy", 0)])
        self._stub = GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, asked: Sequence[Asked], *, together: bool) -> list[Arrays | Refusal]:
        """What is answered to each, sent all at once or one after the other."""
        if not together:
            return [answer for each in asked for answer in self.ask([each], together=True)]
        calls = [self._stub.ModelInfer.future(each.request, timeout=TIMEOUT) for each in asked]
        return [_answer(call) for call in calls]


def _answer(call: Any) -> Arrays | Refusal:
    try:
        response: ModelInferResponse = call.result()
    except grpc.RpcError as error:
        return Refusal(error.code().name, error.details() or "")
    result = triton.InferResult(response)
    return {output.name: result.as_numpy(output.name) for output in response.outputs}


@dataclass(frozen=True, slots=True)
class NearTie:
    """A row whose two best scores are nearer to each other than scores may move: its first label may change.

    Of entities `gap` is the share of the largest logit that logits must move by for the row to come out so.
    """

    request: int
    row: int
    gap: float


@dataclass(slots=True)
class Comparison:
    """What several answers differed by from those of a quiet server, as a share of the largest score."""

    worst: float = 0.0
    bit_equal: int = 0
    rows: int = 0

    def add(self, quiet: Arrays, busy: Arrays, scale: float) -> str | None:
        """Compare one request's answers; what is wrong with them, but for near-ties, which `near_ties` finds."""
        a, b = _scores(quiet), _scores(busy)
        if a.shape != b.shape:
            return f"scores of shape {b.shape} and not {a.shape}"
        self.rows += len(a)
        self.bit_equal += int((a == b).all(axis=tuple(range(1, a.ndim))).sum())
        self.worst = max(self.worst, float(np.abs(a - b).max(initial=0.0)) / scale)
        return next((f"another {name}" for name in _EXACT if name in quiet and _differ(quiet, busy, name)), None)


def _scores(answer: Arrays) -> NDArray[np.float32]:
    """By label and not by rank, so that near-ties do not look like jumps; [N, K]."""
    scores: NDArray[np.float32] = answer["SCORE"]
    return scores if "START" in answer else np.take_along_axis(scores, answer["LABEL"].argsort(axis=1), axis=1)


def _differ(quiet: Arrays, busy: Arrays, name: str) -> bool:
    if quiet[name].shape != busy[name].shape:
        return True
    if name == contract.LABEL.name and "START" not in quiet:
        return bool((quiet[name] != busy[name])[~_tied(quiet, busy)].any())
    return bool((quiet[name] != busy[name]).any())


def _tied(quiet: Arrays, busy: Arrays) -> NDArray[np.bool_]:
    """[N]: the labels' order changed, and the scores that changed places are nearer to each other than they moved."""
    moved = np.abs(_scores(quiet) - _scores(busy)).max(axis=1, initial=0.0)
    gaps = np.abs(np.diff(quiet["SCORE"], axis=1)).min(axis=1, initial=np.inf)
    tied: NDArray[np.bool_] = gaps <= 2 * moved
    return tied


def entities(answer: Arrays, row: int) -> list[tuple[int, int, bytes]]:
    """Where each entity of a row begins and ends, and its label."""
    count = int(answer["COUNT"][row, 0])
    columns = (answer[name][row, :count].tolist() for name in ("START", "END", "LABEL"))
    return list(zip(*columns, strict=True))


def strayed(quiet: Arrays, busy: Arrays) -> list[int]:
    """The rows of token classification that have other entities."""
    if "START" not in quiet or len(quiet["COUNT"]) != len(busy["COUNT"]):
        return []
    return [row for row in range(len(quiet["COUNT"])) if entities(quiet, row) != entities(busy, row)]


def without(answer: Arrays, rows: Sequence[int]) -> Arrays:
    """`answer` as if those rows had not been asked for."""
    kept = {name: np.delete(array, rows, axis=0) for name, array in answer.items()}
    width = int(kept["COUNT"].max(initial=0))
    return {name: array[:, :width] if name in _COLUMNS else array for name, array in kept.items()}


def near_ties(quiet: Sequence[Arrays], busy: Sequence[Arrays]) -> Iterator[NearTie]:
    """Rows of text classification whose labels came in another order, scores having moved by so little."""
    for index, (a, b) in enumerate(zip(quiet, busy, strict=True)):
        if "START" in a or a["LABEL"].shape != b["LABEL"].shape:
            continue
        for row in np.flatnonzero((a["LABEL"] != b["LABEL"]).any(axis=1)):
            yield NearTie(index, int(row), float(np.abs(np.diff(a["SCORE"][row])).min()))
