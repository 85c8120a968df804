"""What a task is: the tensors it speaks, its parameters, and how logits become answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.parameters import Parameters
from tritext.settings import TaskSettings

Arrays = Mapping[str, NDArray[Any]]
FloatArray = NDArray[np.float32]


class Task(Protocol):
    """One task. Adding one is a file here, a line in `tasks.TASKS`, an ensemble template and a test.

    ``answer`` gets one request: `logits` as the encoder gave them, [N, C] or [N, L, C] (FP32), what the
    tokenizer stage `carried` along and the request's own inputs in `arrays`. It returns `outputs`.
    """

    name: ClassVar[str]
    auto_class: ClassVar[str]  # the transformers class that loads such a checkpoint
    inputs: ClassVar[tuple[Tensor, ...]]
    carried: ClassVar[tuple[Tensor, ...]]  # from the tokenizer stage to the postprocess stage
    echoed: ClassVar[tuple[Tensor, ...]]  # of `inputs`, those that the postprocess stage reads too
    logits: ClassVar[Tensor]
    outputs: ClassVar[tuple[Tensor, ...]]
    parameters: ClassVar[type[Parameters]]

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """Logits [..., C] to scores [..., C] as a request without parameters gets them."""
        ...

    def answer(self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: Any) -> dict[str, Any]:
        """One request's outputs, by tensor name."""
        ...


_FILL: Final[Mapping[str, Any]] = {"BYTES": b"", "INT32": 0, "FP32": 0.0, "BOOL": False}
_DTYPE: Final[Mapping[str, Any]] = {"BYTES": np.object_, "INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}


@dataclass(frozen=True, slots=True)
class Column:
    """One output, row by row, each row of its own length."""

    tensor: Tensor
    rows: Sequence[Sequence[Any] | NDArray[Any]]


def pad(*columns: Column) -> dict[str, NDArray[Any]]:
    """Lay columns out as [N, K], K the longest row, with COUNT [N, 1] telling each row's true length."""
    counts = [len(row) for row in columns[0].rows]
    width = max(counts, default=0)
    arrays: dict[str, NDArray[Any]] = {contract.COUNT.name: np.array(counts, dtype=np.int32).reshape(-1, 1)}
    for column in columns:
        kind = column.tensor.datatype
        array = np.full((len(counts), width), _FILL[kind], dtype=_DTYPE[kind])
        for index, row in enumerate(column.rows):
            array[index, : counts[index]] = row
        arrays[column.tensor.name] = array
    return arrays


def softmax(logits: FloatArray) -> FloatArray:
    """Softmax over the last axis, in the order of operations of transformers.pipeline."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: FloatArray = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: FloatArray) -> FloatArray:
    """The logistic function, elementwise; very negative logits give 0 without an overflow warning."""
    with np.errstate(over="ignore"):
        scores: FloatArray = 1.0 / (1.0 + np.exp(-logits))
    return scores


def encoded(labels: Sequence[str]) -> NDArray[np.object_]:
    """Labels as UTF-8, [C], for picking by class index."""
    array = np.empty(len(labels), dtype=np.object_)
    array[:] = [label.encode() for label in labels]
    return array
