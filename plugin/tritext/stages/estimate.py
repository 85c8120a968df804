"""What texts will cost, told from their size in bytes before they are tokenized."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from tritext.text.inputs import TextInput
from tritext.text.tokenizer import Encoded

_HALF_LIFE: Final = 100_000.0  # bytes
_SPECIAL: Final = 2  # tokens around a text, about


class Estimate:
    """Bytes a token and seconds a byte, learnt from the texts of late."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length
        # Of late; the beginning is English, on a slow machine.
        self._bytes, self._tokens, self._seconds = 4000.0, 1000.0, 4e-3

    def of(self, inputs: Iterable[NDArray[Any]], *, is_whole: bool = False) -> tuple[float, float]:
        """The tokens that the encoder will get of a request's texts, and the seconds that tokenizing them takes.

        `is_whole`: texts are not cut. What windows share is left out.
        """
        most = math.inf if is_whole else self._max_length
        tokens, total = 0.0, 0
        density = self._tokens / self._bytes
        for array in inputs:
            for raw in array.reshape(-1).tolist():
                total += len(raw)
                tokens += min(len(raw) * density + _SPECIAL, most)
        return tokens, total * self._seconds / self._bytes

    def learn(self, texts: Sequence[TextInput], encoded: Sequence[Encoded], seconds: float) -> None:
        """`texts` became `encoded` in so many seconds. Characters are taken for bytes, where counting them costs."""
        size = sum(len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts)
        kept = 0.5 ** (size / _HALF_LIFE)
        self._bytes = self._bytes * kept + size
        self._tokens = self._tokens * kept + sum(row.count for row in encoded)
        self._seconds = self._seconds * kept + seconds
