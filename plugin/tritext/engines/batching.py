"""From requests of many lengths to micro-batches that waste little.

Rows are sorted by length and cut into groups of at most `TOKEN_BUDGET` tokens, padding included, so that a
short text is never padded to a long one's length for nothing and the engine's working set stays in cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tritext import contract

IntArray = NDArray[np.int32]

# Chosen by `python -m benchmarks.grouping`: see benchmarks/README.md.
TOKEN_BUDGET: Final = 512


def micro_batches(lengths: NDArray[np.int64], budget: int = TOKEN_BUDGET) -> Iterator[NDArray[np.intp]]:
    """Indices of the rows of each group; a row longer than `budget` is a group of its own."""
    order = np.argsort(lengths, kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or int(lengths[order[end]]) * (end - start + 1) > budget:
            yield order[start:end]
            start = end


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of several requests: per input a list of [l] arrays without padding, and their lengths [R]."""

    values: Mapping[str, list[IntArray]]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, requests: Sequence[Mapping[str, NDArray[Any]]], inputs: Sequence[str]) -> Self:
        """Take the rows of `requests` apart; the mask [N, L] of each tells where a row ends."""
        values: dict[str, list[IntArray]] = {name: [] for name in inputs if name != contract.ATTENTION_MASK.name}
        lengths: list[int] = []
        for request in requests:
            sizes = request[contract.ATTENTION_MASK.name].sum(axis=1).tolist()
            lengths.extend(sizes)
            for name, rows in values.items():
                rows.extend(row[:size] for row, size in zip(request[name], sizes, strict=True))
        return cls(values, np.array(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, indices: NDArray[np.intp], pad_id: int) -> dict[str, IntArray]:
        """The engine's inputs [B, L] for the rows at `indices`, padded to the longest of them."""
        sizes = self.lengths[indices]
        shape = (len(indices), int(sizes.max()))
        arrays = {
            name: np.full(shape, pad_id if name == contract.INPUT_IDS.name else 0, dtype=np.int32)
            for name in self.values
        }
        for name, rows in self.values.items():
            for place, index in enumerate(indices):
                arrays[name][place, : sizes[place]] = rows[index]
        arrays[contract.ATTENTION_MASK.name] = (np.arange(shape[1]) < sizes[:, None]).astype(np.int32)
        return arrays
