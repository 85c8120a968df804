"""Which tokens of a text, or of a pair, stay when it is too long for the model."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tritext.parameters import Cut, Truncation

SPECIAL: Final = -1


def share(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of each of two sequences stay in `room` tokens, taken from the longest first.

    The rule of `tokenizers` (``TruncationStrategy::LongestFirst``): the shorter one is whole while it fits, else
    both get half, an odd token going to the longer.
    """
    if first + second <= room:
        return first, second
    short, long = sorted((first, second))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)


def kept(sequence: NDArray[np.int8], max_length: int, side: Truncation, cut: Cut = "longest_first") -> NDArray[np.intp]:
    """Indices of the tokens that stay, in order.

    With ``only_first`` the second text stays whole, with ``only_second`` the first, and there may be more than
    `max_length` where that is too long.

    `sequence` [L] says for each token which text it is of: 0, 1, or `SPECIAL`, which always stay. `side` is where
    tokens are cut, ``right`` or ``left``.
    """
    members = [np.flatnonzero(sequence == which) for which in (0, 1)]
    special = np.flatnonzero(sequence == SPECIAL)
    first, second = map(len, members)
    room = max(max_length - len(special), 0)
    if cut == "longest_first":
        sizes = share(first, second, room)
    elif cut == "only_first":
        sizes = min(first, max(room - second, 0)), second
    else:
        sizes = first, min(second, max(room - first, 0))
    left = [
        tokens[:size] if side != "left" else tokens[len(tokens) - size :]
        for tokens, size in zip(members, sizes, strict=True)
    ]
    return np.sort(np.concatenate([special, *left]))
