"""From requests of many lengths to engine calls that waste little.

Two ways, chosen by measurement at build (`benchmarks/grouping.py` compares them):

`Packed`, for graphs that keep the texts of a row apart: texts are laid end to end into rows of one length, longest
first into what is left of a row (first fit decreasing: Johnson, "Near-optimal bin packing algorithms", 1973), and
a few rows make a call. Hardly any padding, and the engine always meets the same shapes.

`Sorted`, for all others: texts are sorted by length and cut into groups under a budget of tokens, padding included.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS, IntArray

FloatArray = NDArray[np.float32]
_Size = TypeVar("_Size", int, NDArray[np.int64])

# Row lengths are rounded up to a multiple of this: fewer shapes for an engine to prepare for and to remember. Packed
# rows beyond _SHORT, which are full, have twice the step: a row of 120 takes as long as one of 128.
_STEP: Final = 8
_SHORT: Final = 64
# OpenVINO compiles the products with the weights for each number of tokens, rows times length, and keeps them: some
# 3 MB each of a 6-layer MiniLM in int8, while another way to divide the same number into rows takes 0.5 MB. So last
# calls, which are of all sizes, have few numbers of tokens: beyond 256 eight from one power of two to the next, beyond
# 1024 the multiples of _COARSEST. Calls of more rows than _FEW are for GPUs, whose engines keep nothing.
_COARSEST: Final = 128
_FEW: Final = 16
_STRETCH: Final = 1.25  # the last call may be so much larger, which is cheaper than one more
_LAST: Final = 1 << 31  # beyond every index
_BRIEF: Final = 2  # times as much is in a call when nobody is waiting
_REMEMBERED: Final = 512  # calls of a text alone, at most 20 bytes a token each


def never() -> bool:
    """Nobody else wants the machine."""
    return False


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of several requests, one after the other, and how each tensor looks without padding.

    `values` hold, per input, the tokens of all texts end to end, [S]; `lengths` [T] says where each one ends. `picks`
    are the places in each text that a row of logits is wanted for; None where it is one a text or all. `longest` is how
    long a row may be that the model takes, 0 where that is not known.
    """

    values: Mapping[str, IntArray]
    lengths: NDArray[np.int64]
    picks: Sequence[NDArray[np.intp]] | None = None
    longest: int = 0

    @classmethod
    def of(
        cls,
        requests: Sequence[Mapping[str, NDArray[Any]]],
        inputs: Sequence[str],
        mask_id: int | None = None,
        longest: int = 0,
    ) -> Self:
        """Take the rows of `requests` apart; the mask [N, L] of each tells where a row ends.

        Tokens of `mask_id`, where it is said, are picked.
        """
        masks = [request[contract.ATTENTION_MASK.name].astype(np.bool_) for request in requests]
        values = {
            name: _joined([request[name][mask] for request, mask in zip(requests, masks, strict=True)])
            for name in inputs
            if name != contract.ATTENTION_MASK.name
        }
        lengths = _joined([mask.sum(axis=1) for mask in masks])
        if mask_id is None:
            return cls(values, lengths, longest=longest)
        ids = np.split(values[contract.INPUT_IDS.name], np.cumsum(lengths)[:-1])
        return cls(values, lengths, [np.flatnonzero(each == mask_id) for each in ids], longest)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """How many they have together."""
        return self.values[contract.INPUT_IDS.name].size

    def picked(self, index: int) -> Sequence[int]:
        """The places in a text that a row of logits is wanted for, where its first token stands for all of it."""
        places: Sequence[int] = (0,) if self.picks is None else self.picks[index].tolist()
        return places

    def wanted(self, rows: Iterable["Row"]) -> int:
        """How many rows of logits the texts in `rows` want."""
        return sum(len(self.picked(index)) for row in rows for index in row.texts)


@dataclass(frozen=True, slots=True)
class Call:
    """One engine call: its `arrays`, and where in its output each text of `indices` lies, again for each of its picks.

    `spans` are (row, start, stop) in output [R, L, C]; None where the output is one row a text, [T, C], in order, and
    perhaps some rows more.
    """

    arrays: Mapping[str, IntArray]
    indices: Sequence[int]
    spans: Sequence[tuple[int, int, int]] | None

    @property
    def computed(self) -> int:
        """Positions that the engine computes, padding included."""
        return int(self.arrays[contract.INPUT_IDS.name].size)

    def logits(self, output: FloatArray) -> Iterator[tuple[int, FloatArray]]:
        """Each text's index and its own logits, [C] or [l, C]."""
        if self.spans is None:
            yield from zip(self.indices, output[: len(self.indices)], strict=True)
        else:
            for index, (row, start, stop) in zip(self.indices, self.spans, strict=True):
                yield index, output[row, start:stop]


class Layout(Protocol):
    """A way to arrange texts in calls."""

    kind: ClassVar[str]

    def calls(self, texts: Texts, pad_id: int, *, per_text: bool, brief: Callable[[], bool] = never) -> Iterator[Call]:
        """Calls for all `texts`; `per_text`: the graph gives one row of logits a text, not one a token.

        `brief` is asked before each call whether it should be a short one, where shapes are free.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sorted:
    """Texts of like length together, at most `budget` tokens a call. For graphs with an attention mask."""

    budget: int = 512
    kind: ClassVar[str] = "sorted"

    def calls(self, texts: Texts, pad_id: int, *, per_text: bool, brief: Callable[[], bool] = never) -> Iterator[Call]:
        """One text a row, padded to the longest of its call, and a little more where the model takes that."""
        rounded = _rounded(texts.lengths)
        widths = np.where(rounded <= texts.longest, rounded, texts.lengths)
        for group in self._groups(widths, brief):
            yield self.padded(texts, group, int(widths[group].max()), pad_id, per_text=per_text)

    @staticmethod
    def padded(texts: Texts, group: NDArray[np.intp], width: int, pad_id: int, *, per_text: bool) -> Call:
        """The texts of `group`, one a row of `width` tokens."""
        starts = np.cumsum(texts.lengths) - texts.lengths
        sizes = texts.lengths[group]
        mask = np.arange(width) < sizes[:, None]
        source = np.concatenate([np.arange(s, s + n) for s, n in zip(starts[group], sizes, strict=True)])
        arrays = {contract.ATTENTION_MASK.name: mask.astype(np.int32)}
        for name, tokens in texts.values.items():
            arrays[name] = np.full(mask.shape, _padding(name, pad_id), dtype=np.int32)
            arrays[name][mask] = tokens[source]
        if texts.picks is not None:
            places = [(row, place) for row, index in enumerate(group) for place in texts.picked(int(index))]
            picked = [(row, place, place + 1) for row, place in places]
            return Call(arrays, [int(group[row]) for row, _ in places], picked)
        spans = None if per_text else [(row, 0, int(size)) for row, size in enumerate(sizes)]
        return Call(arrays, group.tolist(), spans)

    def _groups(self, widths: NDArray[np.int64], brief: Callable[[], bool]) -> Iterator[NDArray[np.intp]]:
        """Indices of each group's texts; one that needs a row longer than the budget is a group of its own."""
        order = np.argsort(widths, kind="stable")
        start, budget = 0, self._budget(brief)
        for end in range(1, len(order) + 1):
            if end == len(order) or int(widths[order[end]]) * (end - start + 1) > budget:
                yield order[start:end]
                start, budget = end, self._budget(brief)

    def _budget(self, brief: Callable[[], bool]) -> int:
        return self.budget // _BRIEF if brief() else self.budget


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
            most = max(1, self.row_length * self.rows // (width * (_BRIEF if brief() else 1)))
            rows, length = _fitted(left, total, width, most) or _full(left, width, most)
            total -= sum(row.size for row in rows)
            left, shape = without(left, rows), (len(rows), length)
            room = _room(texts.wanted(rows)) if per_text else None
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


def _rounded(size: _Size, step: int = _STEP) -> _Size:
    return -(-size // step) * step


def _row_length(size: int) -> int:
    """Of packed rows that hold `size` tokens."""
    return _rounded(size, _STEP if size <= _SHORT else 2 * _STEP)


def _last_length(size: int, count: int) -> int:
    """Of the `count` rows of a last call that hold `size` tokens: such that its tokens are one of few numbers."""
    length = _row_length(size)
    if count > _FEW:
        return length
    step = min(_COARSEST, 1 << max(0, (count * length - 1).bit_length() - 4))
    spread = _rounded(length, step // gcd(step, count))
    return length if spread == length else _last_length(spread, count)  # which may be beyond a power of two


def _room(wanted: int) -> int:
    """For how many rows of logits a call has room: one of few numbers, since the last layer is computed for each."""
    return _rounded(max(1, wanted), 1 << max(0, wanted.bit_length() - 3))


def packed_call(
    texts: Texts, starts: NDArray[np.int64], rows: Sequence[Row], shape: tuple[int, int], pad_id: int, *,
    room: int | None,
) -> Call:  # fmt: skip
    """The call of `shape` that holds `rows`; `starts` are where each of `texts` begins.

    `room`: the graph gives so many rows of logits, of which the first are those that the texts want; None: one a token.
    """
    width = shape[1]
    arrays = {name: np.full(shape, _padding(name, pad_id), dtype=np.int32) for name in texts.values}
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


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _padding(name: str, pad_id: int) -> int:
    return pad_id if name == contract.INPUT_IDS.name else 0
