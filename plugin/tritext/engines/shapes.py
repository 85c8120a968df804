"""The shapes that a TensorRT plan is built for: said once, for the plan, for Triton and for whoever calls the plan.

TensorRT chooses kernels for the shapes of its optimization profiles, and Triton captures a CUDA graph for the usual
shape of each (Triton's TensorRT backend, `SetCudaGraphShape`: without a graph specification it takes the profile's
optimal dimensions). Both are at their best where calls have just these shapes. Two ways to see to that:

`CallShapes`: a Python step packs the texts of all requests into a few fixed shapes and calls the plan for each.
`Buckets`: the tokenizer pads each request up to one of a few lengths, and Triton merges those of one length.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from tritext.engines.base import FIRST_TOKENS

Shape = tuple[int, ...]
# Of each input of the plan, its smallest, its usual and its largest shape.
Profile = Mapping[str, tuple[Shape, Shape, Shape]]

_PER_TEXT: Final = 8  # tokens: a call has room for so many texts as if each were as short


class Shapes(Protocol):
    """What a plan is built for. `max_batch_size` is that of the Triton model that runs it."""

    kind: ClassVar[str]

    @property
    def max_batch_size(self) -> int:
        """See the class."""
        ...

    def profiles(self, inputs: Sequence[str]) -> list[Profile]:
        """An optimization profile for each length or shape, for a plan with these `inputs`."""
        ...


@dataclass(frozen=True, slots=True)
class CallShapes:
    """The (rows, tokens a row) that a call of a packed graph may have, and nothing between them."""

    calls: tuple[tuple[int, int], ...]
    kind: ClassVar[str] = "calls"

    @classmethod
    def up_to(cls, max_length: int, tokens: int = 8192) -> "CallShapes":
        """For texts of at most `max_length` tokens, and at most `tokens` a call.

        Single short rows, for the latency of one text; rows of 128 for traffic; longer ones for longer texts. From
        one number of rows to the next it is a factor of four: a profile costs minutes to build and memory to keep.
        """
        longest = -(-max_length // 8) * 8
        usual = (128, 256, 384, 512, *(512 * 2**power for power in range(1, 8)))
        widths = [*(width for width in usual if width < longest), longest]
        short = [(1, width) for width in (16, 32, 64) if width < widths[0]]
        return cls((*short, *((rows, width) for width in widths for rows in _fours(max(1, tokens // width)))))

    @property
    def max_batch_size(self) -> int:
        """A call is a batch of one: it holds texts of many requests, and Triton is not to merge calls.

        Not 0, for which Triton's backend captures CUDA graphs that it never finds again (server issue 7150).
        """
        return 1

    def profiles(self, inputs: Sequence[str]) -> list[Profile]:
        """One for each shape, which is its smallest, its usual and its largest; the first dimension is the batch."""
        shapes = [{n: (1, texts_of(call)) if n == FIRST_TOKENS else (1, *call) for n in inputs} for call in self.calls]
        return [{name: (shape, shape, shape) for name, shape in each.items()} for each in shapes]


def texts_of(call: tuple[int, int]) -> int:
    """How many texts a call of this shape has room for."""
    return max(1, call[0] * call[1] // _PER_TEXT)


@dataclass(frozen=True, slots=True)
class Buckets:
    """The `lengths` that requests are padded up to; at most `rows` of one length are a batch, usually `usual`."""

    lengths: tuple[int, ...]
    rows: int = 64
    usual: int = 8
    kind: ClassVar[str] = "buckets"

    @classmethod
    def up_to(cls, max_length: int, rows: int = 64) -> "Buckets":
        """Lengths that grow by a third to a half, so that padding costs a sixth on average, up to `max_length`.

        The last is not rounded: a model may have no more positions.
        """
        usual = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
        return cls((*(length for length in usual if length < max_length), max_length), rows, min(8, rows))

    @property
    def max_batch_size(self) -> int:
        """The most rows of a profile."""
        return self.rows

    def profiles(self, inputs: Sequence[str]) -> list[Profile]:
        """One for each length."""
        return [
            dict.fromkeys(inputs, ((1, length), (self.usual, length), (self.rows, length))) for length in self.lengths
        ]


def bucket(lengths: Iterable[int], length: int) -> int:
    """The smallest of the ascending `lengths` that holds `length` tokens; `length` itself where none does."""
    return next((each for each in lengths if each >= length), length)


def shapes_from(values: Mapping[str, Any]) -> CallShapes | Buckets:
    """The shapes that `shapes_values` wrote; KeyError or TypeError where it is none."""
    if values["kind"] == Buckets.kind:
        return Buckets(tuple(values["lengths"]), values["rows"], values["usual"])
    if values["kind"] == CallShapes.kind:
        return CallShapes(tuple((rows, width) for rows, width in values["calls"]))
    raise KeyError(values["kind"])


def shapes_values(shapes: CallShapes | Buckets) -> dict[str, Any]:
    """`shapes` as JSON can hold them."""
    if isinstance(shapes, Buckets):
        return {"kind": shapes.kind, "lengths": shapes.lengths, "rows": shapes.rows, "usual": shapes.usual}
    return {"kind": shapes.kind, "calls": shapes.calls}


def _fours(most: int) -> list[int]:
    """1, 4, 16, … and `most`."""
    powers = [4**power for power in range(16) if 4**power < most]
    return [*powers, most]
