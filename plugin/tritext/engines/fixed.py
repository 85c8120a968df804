"""Texts in calls of the few shapes that a TensorRT plan is built for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from tritext.engines.batching import Call, Sorted, Texts, never
from tritext.engines.packing import Row, filled, packed_call, without
from tritext.engines.shapes import bucket, texts_of
from tritext.errors import InvalidInput

# What a call costs beside its tokens, in tokens: what decides between one large call and two small ones.
_OVERHEAD: Final = 512


@dataclass(frozen=True, slots=True)
class PackedCalls:
    """Several texts in a row, as `Packed`, and each call in one of the shapes `calls`, (rows, tokens a row)."""

    calls_of: tuple[tuple[int, int], ...]
    kind: ClassVar[str] = "packed-calls"

    def __post_init__(self) -> None:
        read = tuple((int(rows), int(width)) for rows, width in self.calls_of)
        object.__setattr__(self, "calls_of", read)

    def calls(self, texts: Texts, pad_id: int, *, per_text: bool, brief: Callable[[], bool] = never) -> Iterator[Call]:
        """The longest texts first, each call in the shape that gets the most tokens done for what it costs.

        ValueError where a text is longer than every shape, InvalidInput where it has more masks than any has room for.
        """
        del brief
        starts = np.cumsum(texts.lengths) - texts.lengths
        left = sorted((length, index) for index, length in enumerate(texts.lengths.tolist()))
        while left:
            most = len(texts.picked(left[-1][1])) if per_text else 0
            shape = self._shape(left[-1][0], sum(length for length, _ in left), most)
            rows, room = filled(left, shape[1], shape[0]), texts_of(shape)
            if per_text:
                rows = _no_more_than(texts, rows, room)
            left = without(left, rows)
            yield packed_call(texts, starts, rows, shape, pad_id, room=room if per_text else None)

    def _shape(self, longest: int, total: int, most: int) -> tuple[int, int]:
        long_enough = [shape for shape in self.calls_of if shape[1] >= longest]
        if not long_enough:
            raise ValueError(f"a text has {longest} tokens, the plan takes {max(width for _, width in self.calls_of)}")
        shapes = [shape for shape in long_enough if texts_of(shape) >= most]
        if not shapes:
            room = max(texts_of(shape) for shape in long_enough)
            raise InvalidInput(
                f"A text of {longest} tokens has {most} masks, and this model's TensorRT plan fills at most {room} of "
                "such a text. Send fewer masks a text."
            )
        return max(shapes, key=lambda shape: _worth(shape, total))


def _worth(shape: tuple[int, int], total: int) -> float:
    """Tokens done for what a call costs; among equals the one of shorter rows, whose attention is cheaper."""
    tokens = shape[0] * shape[1]
    return min(total, tokens) / (tokens + _OVERHEAD) - shape[1] * 1e-9


def _no_more_than(texts: Texts, rows: Sequence[Row], room: int) -> list[Row]:
    """`rows` without the texts from where on they want more than `room` rows of logits."""
    kept: list[Row] = []
    for row in rows:
        members = []
        for index in row.texts:
            room -= len(texts.picked(index))
            if room < 0:
                break
            members.append(index)
        if members:
            kept.append(Row(members, row.size))
        if room < 0:
            break
    return kept


@dataclass(frozen=True, slots=True)
class Bucketed:
    """Rows of one of `lengths`, at most `rows` a call: what Triton's batcher makes of requests padded to them."""

    lengths: tuple[int, ...]
    rows: int
    kind: ClassVar[str] = "bucketed"

    def calls(self, texts: Texts, pad_id: int, *, per_text: bool, brief: Callable[[], bool] = never) -> Iterator[Call]:
        """One text a row, padded up to its bucket."""
        del brief
        buckets = np.array([bucket(self.lengths, int(length)) for length in texts.lengths])
        for length in np.unique(buckets):
            indices = np.flatnonzero(buckets == length)
            for start in range(0, len(indices), self.rows):
                yield Sorted.padded(texts, indices[start : start + self.rows], int(length), pad_id, per_text=per_text)
