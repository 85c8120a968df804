"""Deadlines that follow a request from the tokenizer to the encoder, so that overdue work is not begun.

Triton tells a step a request's id and how long it may wait (its parameter `timeout`), but not since when, and neither
that its caller has hung up. A queue policy of Triton's could drop what is overdue; but with one a step stands idle
until a request arrives or half a second has passed (Triton 2.51, measured). So the tokenizer notes in a table in shared
memory when each request that has a timeout is due, and the encoder looks there before it begins. It is known by its
number (`tritext.calls`) where a fence let it in, else by its id: callers that give the same one then get the latest of
their times. A request with neither, or whose place in the table another one took, is never overdue.
"""

import hashlib
import mmap
import os
import time
from pathlib import Path
from typing import Final

_PLACES: Final = 8192  # more than ever wait
_BYTES: Final = 16  # a key and a time
_WORD: Final = 2**64 - 1


class Deadlines:
    """The table in the file `path`: written by one process, read by another."""

    def __init__(self, path: Path) -> None:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(file, 0, _PLACES * _BYTES)
            memory = memoryview(mmap.mmap(file, _PLACES * _BYTES))
        finally:
            os.close(file)
        self._keys, self._times = memory.cast("Q"), memory.cast("d")

    def note(self, request: int | str, timeout: float) -> None:
        """The request with that number or id is due in `timeout` seconds; of several with one id the one due last."""
        key, place = _placed(request)
        due = time.monotonic() + timeout
        if self._keys[place] == key:
            due = max(due, self._times[place + 1])
        self._keys[place] = 0  # so that nobody reads another one's time
        self._times[place + 1] = due
        self._keys[place] = key

    def passed(self, request: int | str) -> bool:
        """Whether that request is overdue."""
        key, place = _placed(request)
        if self._keys[place] != key:
            return False
        due = self._times[place + 1]
        return self._keys[place] == key and time.monotonic() > due


def _placed(request: int | str) -> tuple[int, int]:
    """Its key, never 0, and where its entry begins, in words of eight bytes."""
    if isinstance(request, int):
        key = (request << 1 | 1) & _WORD
    else:
        key = int.from_bytes(hashlib.blake2b(request.encode(), digest_size=8).digest(), "little") | 1
    return key, 2 * ((key >> 1) % _PLACES)
