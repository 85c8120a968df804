"""What a task is: the tensors it speaks, its parameters, how logits become answers, and what a client gets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.errors import InvalidInput
from tritext.parameters import Cut, Parameters
from tritext.settings import TaskSettings
from tritext.tasks.inputs import Arrays, Rows, one_each
from tritext.text.inputs import TextInput

FloatArray = NDArray[np.float32]
# What the encoder gives a row of logits for: a text, each of its tokens, or each of its mask tokens.
Per = Literal["text", "token", "mask"]


class Task:
    """One task. Adding one is a file here, a line in `tasks.TASKS`, an ensemble template and a test.

    What differs between tasks is said by a subclass, and nowhere else. It holds nothing of a model.
    """

    name: ClassVar[str]
    # Of the checkpoint: the transformers class that loads it, and how the names of such architectures end ("" where
    # none tells, and the user must name the task).
    auto_class: ClassVar[str]
    suffix: ClassVar[str] = ""
    has_labels: ClassVar[bool] = True
    # Tensors. `inputs` and `outputs` are the client's; what the tokenizer stage finds out is `carried` to the
    # postprocess stage, a row for each that is encoded.
    inputs: ClassVar[tuple[Tensor, ...]] = (contract.TEXT,)
    carried: ClassVar[tuple[Tensor, ...]] = ()
    logits: ClassVar[Tensor] = contract.LOGITS
    outputs: ClassVar[tuple[Tensor, ...]]
    per: ClassVar[Per] = "text"
    expands: ClassVar[bool] = False  # a text becomes several rows
    windows: ClassVar[bool] = False  # it does where a request, or its length, asks for that
    cut: ClassVar[Cut] = "longest_first"  # which text of a pair is cut
    parameters: ClassVar[type[Parameters]]
    # Of the client: what a text's answer is, and what is made of each of its K entries, of `outputs` in order.
    result: ClassVar[type[Any]]
    entry: ClassVar[Callable[..., Any]]

    @property
    def texts(self) -> tuple[Tensor, ...]:
        """Of `inputs`, those that hold a text a row: an item's first, and second."""
        return tuple(tensor for tensor in self.inputs if tensor.dims == (1,))

    @property
    def names(self) -> tuple[str, str]:
        """Those of the tensors of an item's first and second text; of single texts the same."""
        return self.texts[0].name, self.texts[-1].name

    @property
    def shared(self) -> tuple[Tensor, ...]:
        """Of `inputs`, those that hold a list of texts a row, which a client sends with every item."""
        return tuple(tensor for tensor in self.inputs if tensor.dims != (1,))

    def accept(self, labels: Sequence[str]) -> None:
        """CheckpointError where a checkpoint with these labels, by class index, cannot do the task."""

    def defaults(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Request parameters' defaults that the checkpoint asks for; `config` is all that its own files say of it."""
        del config
        return {}

    def load(self, folder: Path) -> Self:
        """The task with what it needs of the postprocess step's version folder."""
        del folder
        return self

    def needs_tokenizer(self) -> bool:
        """Whether that folder has the tokenizer too."""
        return False

    def rows(self, inputs: Arrays, settings: TaskSettings, parameters: Any) -> Rows:
        """The texts to encode for one request; InvalidInput where its inputs are not as they must be."""
        del settings, parameters
        return one_each(inputs)

    def cut_for(self, parameters: Parameters) -> Cut:
        """Which text of a pair is cut for a request: what it says, where the task lets it."""
        cut: Cut = getattr(parameters, "truncation_strategy", self.cut)
        return cut

    def check(self, input_ids: NDArray[np.int32], row: int, settings: TaskSettings) -> None:
        """InvalidInput where the model cannot be asked with these ids [L] of the request's row `row`."""

    def check_together(self, rows: Sequence[NDArray[np.int32]], settings: TaskSettings, parameters: Any) -> None:
        """InvalidInput where the ids [L] of all of the request's rows would make too much work of an answer."""

    def answer(self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: Any) -> dict[str, Any]:
        """One request's `outputs`, by tensor name.

        `logits` are as the encoder gave them, [M, C], or [M, L, C] per token or mask (FP32); `arrays` has what
        was carried.
        """
        raise NotImplementedError

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """Logits [..., C] to scores [..., C] as a request without parameters gets them."""
        raise NotImplementedError

    def judged(self, logits: Sequence[FloatArray]) -> FloatArray:
        """Texts' logits, [C] each or [L, C], as rows [R, C] of which each decides something by itself."""
        return np.concatenate([np.atleast_2d(each) for each in logits])

    def decisions(self, logits: FloatArray, settings: TaskSettings) -> tuple[NDArray[Any], FloatArray]:
        """What each row of `logits` [R, C] decides, and by what margin; empty arrays where nothing is decided."""
        del settings
        if logits.shape[-1] == 1:  # it is always that class
            return logits.argmax(axis=-1), np.full(len(logits), np.inf, dtype=np.float32)
        ranked = np.partition(logits, -2, axis=-1)
        return logits.argmax(axis=-1), ranked[:, -1] - ranked[:, -2]

    def drift(self, got: FloatArray, expected: FloatArray, settings: TaskSettings) -> FloatArray:
        """How far the answers of rows of logits [R, C] are from those of the `expected` ones, [R]."""
        drift: FloatArray = np.abs(self.scores(got, settings) - self.scores(expected, settings)).max(axis=-1)
        return drift

    def references(self, texts: Sequence[TextInput], mask_token: str | None) -> list[TextInput]:
        """`texts` in the form in which this task's model is judged by them."""
        del mask_token
        return list(texts)

    def sample(self, settings: TaskSettings) -> str | None:
        """A short text that the model can answer, for whoever looks whether it does; None where any will do."""
        del settings
        return None

    def request(
        self, text: str, pair: str | None, settings: TaskSettings
    ) -> tuple[dict[str, NDArray[np.object_]], dict[str, object]]:
        """Inputs and parameters of the request whose first row is this text or pair, cut right where it must be."""
        del settings
        inputs = {contract.TEXT.name: column([text])}
        if pair is not None:
            inputs[contract.TEXT_PAIR.name] = column([pair])
        return inputs, {"truncation": "right"}


def firsts(of: NDArray[np.int32]) -> NDArray[np.intp]:
    """Where the rows of each text begin, [N]; `of` [M], ascending, says which of N texts each of M rows is of."""
    begins = np.ones(len(of), dtype=np.bool_)
    np.not_equal(of[1:], of[:-1], out=begins[1:])
    return begins.nonzero()[0]


def column(texts: Sequence[str]) -> NDArray[np.object_]:
    """Texts as BYTES [N, 1]."""
    array = np.empty((len(texts), 1), dtype=np.object_)
    array[:, 0] = [text.encode() for text in texts]
    return array


_FILL: Final[Mapping[str, Any]] = {"BYTES": b"", "INT32": 0, "FP32": 0.0, "BOOL": False}
_MOST_PADDING: Final = 4_000_000  # cells of each column, some 30 bytes together
_DTYPE: Final[Mapping[str, Any]] = {"BYTES": np.object_, "INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}


@dataclass(frozen=True, slots=True)
class Column:
    """One output, row by row, each row of its own length."""

    tensor: Tensor
    rows: Sequence[Sequence[Any] | NDArray[Any]]


def pad(*columns: Column) -> dict[str, NDArray[Any]]:
    """Lay columns out as [N, K], K the longest row, with COUNT [N, 1] telling each row's true length.

    InvalidInput where hardly anything but padding would be made.
    """
    counts = [len(row) for row in columns[0].rows]
    width = max(counts, default=0)
    if len(counts) * width - sum(counts) > _MOST_PADDING:
        raise InvalidInput(
            f"A text of the request has {width:,} answers, and as many places would have to be made for each of its "
            f"{len(counts):,} texts. Send long texts by themselves."
        )
    arrays: dict[str, NDArray[Any]] = {contract.COUNT.name: np.array(counts, dtype=np.int32).reshape(-1, 1)}
    for column in columns:
        kind = column.tensor.datatype
        array = np.full((len(counts), width), _FILL[kind], dtype=_DTYPE[kind])
        for index, row in enumerate(column.rows):
            array[index, : counts[index]] = row
        arrays[column.tensor.name] = array
    return arrays


def even(*columns: tuple[Tensor, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """As `pad`, of columns [N, K] of which every row is as long."""
    rows, width = columns[0][1].shape
    arrays: dict[str, NDArray[Any]] = {contract.COUNT.name: np.full((rows, 1), width, dtype=np.int32)}
    return arrays | {tensor.name: array for tensor, array in columns}


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


@lru_cache(maxsize=8)
def encoded(labels: tuple[str, ...]) -> NDArray[np.object_]:
    """Labels as UTF-8, [C], for picking by class index."""
    array = np.empty(len(labels), dtype=np.object_)
    array[:] = [label.encode() for label in labels]
    array.flags.writeable = False  # it is everybody's
    return array
