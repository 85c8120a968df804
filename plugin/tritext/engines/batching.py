"""From requests of many lengths to engine calls that waste little.

Two ways, chosen by measurement at build (`benchmarks/grouping.py` compares them): `tritext.engines.packing`, for graphs
that keep the texts of a row apart, and for all others `Sorted`: texts are sorted by length and cut into groups under a
budget of tokens, padding included.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.engines.base import IntArray

FloatArray = NDArray[np.float32]
_Size = TypeVar("_Size", int, NDArray[np.int64])

# Row lengths are rounded up to a multiple of this: fewer shapes for an engine to prepare for and to remember.
STEP: Final = 8
BRIEF: Final = 2  # times as much is in a call when nobody is waiting


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

    def wanted(self, indices: Iterable[int]) -> int:
        """How many rows of logits those texts want."""
        return sum(len(self.picked(index)) for index in indices)


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
        wider = rounded(texts.lengths)
        widths = np.where(wider <= texts.longest, wider, texts.lengths)
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
            arrays[name] = np.full(mask.shape, padding(name, pad_id), dtype=np.int32)
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
        return self.budget // BRIEF if brief() else self.budget


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def padding(name: str, pad_id: int) -> int:
    """What stands in the input `name` where there is no token."""
    return pad_id if name == contract.INPUT_IDS.name else 0


def rounded(size: _Size, step: int = STEP) -> _Size:
    """`size` up to a multiple of `step`."""
    return -(-size // step) * step
