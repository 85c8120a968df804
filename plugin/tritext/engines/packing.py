"""Texts end to end in rows, for graphs that keep the texts of a row apart.

Rows have one length, and the longest text goes first into what is left of a row (first fit decreasing: Johnson,
"Near-optimal bin packing algorithms", 1973); a few rows make a call. Hardly any padding, and the engine always meets
the same shapes.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS
from tritext.engines.batching import BRIEF, STEP, Call, Texts, never, padding, rounded

# Rows beyond this, which are full, are rounded to twice STEP: one of 120 takes as long as one of 128.
_SHORT: Final = 64
# OpenVINO compiles the products with the weights for each number of tokens, rows times length, and keeps them: some
# 3 MB each of a 6-layer MiniLM in int8, while another way to divide the same number into rows takes 0.5 MB. So last
# calls, which are of all sizes, have few numbers of tokens: beyond 256 eight from one power of two to the next, beyond
# 1024 the multiples of _COARSEST. Calls of more rows than _FEW are for GPUs, whose engines keep nothing.
_COARSEST: Final = 128
_FEW: Final = 16
_STRETCH: Final = 1.25  # the last call may be so much larger, which is cheaper than one more
_LAST: Final = 1 << 31  # beyond every index
_REMEMBERED: Final = 512  # calls of a text alone, at most 20 bytes a token each


@dataclass(frozen=True, slots=True)
class Packed:
    """Texts end to end in rows of `row_length` tokens (a longer text has a row of its own length), `rows` a call."""

    row_length: int = 128
    rows: int = 4
    kind: ClassVar[str] = "packed"

    def calls(self, texts: Texts, pad_id: int, *, per_text: bool, brief: Callable[[], bool] = never) -> Iterator[Call]:
        """Those of `laid_out`; that of a text alone is remembered, for the next one of its length.

        To lay such a text out each time took half of what this step spent on it beside its engine.
        """
        if len(texts) == 1 and texts.picks is None and texts.lengths[0] <= self.row_length:
            yield self._alone(texts, pad_id, per_text=per_text)
        else:
            yield from self.laid_out(texts, pad_id, per_text=per_text, brief=brief)

    def _alone(self, texts: Texts, pad_id: int, *, per_text: bool) -> Call:
        size = int(texts.lengths[0])
        call = _of_one(self, size, tuple(texts.values), pad_id, per_text=per_text)
        arrays = {name: array.copy() for name, array in call.arrays.items()}
        for name, tokens in texts.values.items():
            arrays[name][0, :size] = tokens
        return Call(arrays, call.indices, call.spans)

    def laid_out(self, texts: Texts, pad_id: int, *, per_text: bool, brief: Callable[[], bool]) -> Iterator[Call]:
        """The longest texts first: one that is longer than `row_length` makes all rows of its call as long."""
        starts = np.cumsum(texts.lengths) - texts.lengths
        left = sorted((length, index) for index, length in enumerate(texts.lengths.tolist()))
        total = texts.tokens
        while left:
            width = max(self.row_length, left[-1][0])
            most = max(1, self.row_length * self.rows // (width * (BRIEF if brief() else 1)))
            rows, length = _fitted(left, total, width, most) or _full(left, width, most)
            total -= sum(row.size for row in rows)
            left, shape = without(left, rows), (len(rows), length)
            room = _room(texts.wanted(index for row in rows for index in row.texts)) if per_text else None
            yield packed_call(texts, starts, rows, shape, pad_id, room=room)


@lru_cache(_REMEMBERED)
def _of_one(layout: Packed, size: int, names: tuple[str, ...], pad_id: int, *, per_text: bool) -> Call:
    """The call of one text of `size` tokens, all 0, with the inputs `names`. It is kept: nobody may write to it."""
    texts = Texts(dict.fromkeys(names, np.zeros(size, dtype=np.int32)), np.array([size]))
    (call,) = layout.laid_out(texts, pad_id, per_text=per_text, brief=never)
    return call


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a packed call: the indices of its `texts`, `size` tokens together."""

    texts: list[int]
    size: int


def without(lengths: Sequence[tuple[int, int]], rows: Iterable[Row]) -> list[tuple[int, int]]:
    """Those of `lengths`, (length, index), that are not in `rows`."""
    taken = {index for row in rows for index in row.texts}
    return [each for each in lengths if each[1] not in taken]


def filled(lengths: Sequence[tuple[int, int]], room: int, most: int) -> list[Row]:
    """At most `most` rows of at most `room` tokens, or of one longer text; `lengths` are (length, index), ascending."""
    left = list(lengths)
    rows: list[Row] = []
    while left and len(rows) < most:
        size, index = left.pop()
        row = [index]
        free = room - size
        while left and (place := bisect_right(left, (free, _LAST))):
            length, index = left.pop(place - 1)
            row.append(index)
            size, free = size + length, free - length
        rows.append(Row(row, size))
    return rows


def _full(lengths: Sequence[tuple[int, int]], width: int, most: int) -> tuple[list[Row], int]:
    """The rows of a call that is not the last one, and how long they are to be."""
    rows = filled(lengths, width, most)
    return rows, _row_length(max(row.size for row in rows))


def _fitted(lengths: Sequence[tuple[int, int]], total: int, width: int, most: int) -> tuple[list[Row], int] | None:
    """All that is left in one last call, in rows as long as makes them full; None where one call is too few.

    A few texts hardly ever fill rows of a given length. Of two calls of one size, that of the shorter rows costs less.
    """
    if total > most * width:
        return None
    best = None
    least = most * width * _STRETCH
    fewest = max(1, total // width)
    for count in range(fewest, fewest + 2):
        room = _last_length(max(-(-total // count), lengths[-1][0]), count)
        for each in (room, _last_length(room + 1, count)):
            rows = filled(lengths, each, count)
            length = _last_length(max(row.size for row in rows), len(rows))
            if sum(row.size for row in rows) == total and len(rows) * length <= least:
                best, least = (rows, length), len(rows) * length
                break
    return best


def _row_length(size: int) -> int:
    """Of packed rows that hold `size` tokens."""
    return rounded(size, STEP if size <= _SHORT else 2 * STEP)


def _last_length(size: int, count: int) -> int:
    """Of the `count` rows of a last call that hold `size` tokens: such that its tokens are one of few numbers."""
    length = _row_length(size)
    if count > _FEW:
        return length
    step = min(_COARSEST, 1 << max(0, (count * length - 1).bit_length() - 4))
    spread = rounded(length, step // gcd(step, count))
    return length if spread == length else _last_length(spread, count)  # which may be beyond a power of two


def _room(wanted: int) -> int:
    """For how many rows of logits a call has room: one of few numbers, since the last layer is computed for each."""
    return rounded(max(1, wanted), 1 << max(0, wanted.bit_length() - 3))


def packed_call(
    texts: Texts, starts: NDArray[np.int64], rows: Sequence[Row], shape: tuple[int, int], pad_id: int, *,
    room: int | None,
) -> Call:  # fmt: skip
    """The call of `shape` that holds `rows`; `starts` are where each of `texts` begins.

    `room`: the graph gives so many rows of logits, of which the first are those that the texts want; None: one a token.
    """
    width = shape[1]
    arrays = {name: np.full(shape, padding(name, pad_id), dtype=np.int32) for name in texts.values}
    positions, segments = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    indices, spans = [], []
    for number, row in enumerate(rows):
        begin = 0
        for segment, index in enumerate(row.texts, start=1):
            size, source = int(texts.lengths[index]), int(starts[index])
            end = begin + size
            for name, tokens in texts.values.items():
                arrays[name][number, begin:end] = tokens[source : source + size]
            positions[number, begin:end] = np.arange(size)
            segments[number, begin:end] = segment
            indices.append(index)
            spans.append((number, begin, end))
            begin = end
    arrays[POSITION_IDS], arrays[SEGMENT_IDS] = positions, segments
    if room is None:
        return Call(arrays, indices, spans)
    wanted = [
        (index, row * width + begin + place)
        for index, (row, begin, _) in zip(indices, spans, strict=True)
        for place in texts.picked(index)
    ]
    first = np.zeros(room, dtype=np.int32)
    first[: len(wanted)] = [place for _, place in wanted]
    arrays[FIRST_TOKENS] = first
    return Call(arrays, [index for index, _ in wanted], None)
