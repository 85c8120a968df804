"""A text that is too long for the model, as windows that overlap.

The windows are those of transformers' fast tokenizers with ``return_overflowing_tokens`` and a ``stride``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Windows:
    """Neighbours share `stride` tokens; a window has at most `length`, special ones included (None: the model's most).

    Of a pair the second text is split, and the first is whole in each window.
    """

    stride: int
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where the windows of one text lie: `fixed` tokens are in each of them, and of `split` up to `room`.

    Both hold indices of tokens, in order. It is one window where all fit.
    """

    fixed: NDArray[np.intp]
    split: NDArray[np.intp]
    room: int
    stride: int

    @classmethod
    def of(cls, sequence: NDArray[np.int8], length: int, stride: int, *, is_pair: bool) -> "Cuts":
        """Of a text or a pair; `sequence` [L] as in `truncation.kept`."""
        is_split = sequence == int(is_pair)
        fixed = np.flatnonzero(~is_split)
        return cls(fixed, np.flatnonzero(is_split), length - len(fixed), stride)

    @property
    def is_possible(self) -> bool:
        """Whether all fit, or each window has something new."""
        return len(self.split) <= self.room or self.room > self.stride

    def __len__(self) -> int:
        beyond = len(self.split) - self.room
        return 1 if beyond <= 0 else 1 - (-beyond // (self.room - self.stride))

    def __getitem__(self, number: int) -> NDArray[np.intp]:
        """The tokens of one window."""
        begin = number * (self.room - self.stride)
        return np.sort(np.concatenate([self.fixed, self.split[begin : begin + self.room]]))

    def own(self, number: int) -> NDArray[np.intp]:
        """Those that no other window has more of the text around: neighbours share what both have in halves."""
        step = self.room - self.stride
        begin = number * step + (-(-self.stride // 2) if number else 0)
        end = (number + 1) * step + -(-self.stride // 2) if number + 1 < len(self) else None
        return self.split[begin:end]
