"""Packed rows without their padding: all texts end to end in one row, and where each begins.

Pure numpy, so that what a GPU is given can be computed and tested without one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS, IntArray

STARTS: Final = "starts"  # [T + 1]: where each text begins, and behind the last one where it ends

_TOKENS: Final = (contract.INPUT_IDS.name, contract.TOKEN_TYPE_IDS.name, POSITION_IDS, SEGMENT_IDS)


@dataclass(frozen=True, slots=True)
class Shape:
    """A fixed size: room for so many `tokens`, padding included, of at most so many `texts`."""

    tokens: int
    texts: int

    @classmethod
    def of(cls, tokens: int) -> Self:
        """Room for texts of eight tokens each: real ones are longer."""
        return cls(tokens, max(1, tokens // 8))


@dataclass(frozen=True, slots=True)
class Flat:
    """Texts end to end.

    `pieces` are INT32 arrays: those of a value a token [1, S], with the texts numbered from 1 in ``segment_ids``;
    `STARTS`; and, where logits are wanted by text, ``first_tokens`` [T] within the S tokens. `tokens` is S and
    `longest` the length of the longest text, both without padding; `kept` [R, L] says where in the rows they were.
    """

    pieces: Mapping[str, IntArray]
    longest: int
    tokens: int
    kept: NDArray[np.bool_]

    @classmethod
    def of(cls, arrays: Mapping[str, IntArray]) -> Self:
        """Take the padding out of `arrays`, the inputs of a packed graph."""
        segments = arrays[SEGMENT_IDS]
        kept = segments > 0
        rows = np.broadcast_to(np.arange(len(segments))[:, None], segments.shape)[kept]
        numbers = segments[kept]
        begins = np.flatnonzero(np.diff(rows, prepend=-1) | np.diff(numbers, prepend=-1))
        starts = np.append(begins, len(numbers)).astype(np.int32)
        lengths = np.diff(starts)
        pieces = {name: arrays[name][kept][None] for name in _TOKENS if name in arrays}
        pieces[SEGMENT_IDS] = np.repeat(np.arange(1, len(starts), dtype=np.int32), lengths)[None]
        pieces[STARTS] = starts
        if FIRST_TOKENS in arrays:
            places = np.cumsum(kept.ravel(), dtype=np.int32) - 1
            pieces[FIRST_TOKENS] = places[arrays[FIRST_TOKENS]]
        return cls(pieces, int(lengths.max(initial=0)), len(numbers), kept)

    @property
    def texts(self) -> int:
        """How many there are."""
        return len(self.pieces[STARTS]) - 1

    @property
    def answers(self) -> int:
        """How many rows of logits are wanted, where it is not one a token."""
        return len(self.pieces[FIRST_TOKENS]) if FIRST_TOKENS in self.pieces else 0

    def fits(self, shape: Shape) -> bool:
        """Whether `padded` can make it so large."""
        return self.tokens <= shape.tokens and max(self.texts, self.answers) <= shape.texts

    def padded(self, shape: Shape) -> "Flat":
        """The same in vectors of a fixed size. The padding is one text more, behind which come empty ones."""
        sizes = {STARTS: shape.texts + 2, FIRST_TOKENS: shape.texts}
        pieces = {name: _extended(piece, sizes.get(name, shape.tokens)) for name, piece in self.pieces.items()}
        pieces[STARTS][self.texts + 1 :] = shape.tokens
        return replace(self, pieces=pieces, longest=shape.tokens)

    def rows(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits by token [S or more, C] as rows [R, L, C]; 0 where there was padding."""
        spread = np.zeros((*self.kept.shape, logits.shape[-1]), dtype=np.float32)
        spread[self.kept] = logits[: self.tokens]
        return spread


def fitting(flat: Flat, shapes: Sequence[Shape]) -> Shape | None:
    """The smallest of `shapes`, which are in ascending order, that has room for `flat`."""
    return next((shape for shape in shapes if flat.fits(shape)), None)


def _extended(piece: IntArray, size: int) -> IntArray:
    longer = np.zeros((*piece.shape[:-1], size), dtype=np.int32)
    longer[..., : piece.shape[-1]] = piece
    return longer
