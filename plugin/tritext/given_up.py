"""Calls whose callers have gone, so that work for them is not begun.

The fence in front of gRPC numbers each call, in a header that Triton passes on to every step as a request parameter,
and notes in shared memory which of them nobody waits for any more. Triton is not told: see `tritext.serve.grpc_fence`.

Imports nothing but the standard library: each step loads it.
"""

import mmap
import os
from pathlib import Path
from typing import Final, Self

HEADER: Final = "tritext-call"
TABLE: Final = "TRITEXT_GIVEN_UP"  # environment: the table's path

_PLACES: Final = 8192  # more calls than are ever under way; many numbers have the same
_BYTES: Final = 8


_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the Python backend keeps its segments, which go the same way


def path(segments: str) -> Path:
    """The table of the server whose `segments` of shared memory begin so."""
    return _SHARED_MEMORY / f"{segments}given_up"


def environment(segments: str) -> dict[str, str]:
    """What a server sets for its steps."""
    return {TABLE: str(path(segments))}


class GivenUp:
    """The table in the file `table`, which one process writes and the others read."""

    def __init__(self, table: Path) -> None:
        file = os.open(table, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(file, 0, _PLACES * _BYTES)  # a full disk is an error here, and not when it is used
            self._calls = memoryview(mmap.mmap(file, _PLACES * _BYTES)).cast("Q")
        finally:
            os.close(file)

    @classmethod
    def from_environment(cls) -> Self | None:
        """That of the server that started this process; None where it has none."""
        there = os.environ.get(TABLE)
        return cls(Path(there)) if there else None

    def note(self, call: int) -> None:
        """Nobody waits for that call, numbered from 1 on."""
        self._calls[call % _PLACES] = call

    def has(self, sent: object) -> bool:
        """Whether nobody waits for the call whose number, as the header gives it, was `sent`."""
        return isinstance(sent, str) and sent.isdecimal() and len(sent) < 20 and int(sent) in self

    def __contains__(self, call: int) -> bool:
        return self._calls[call % _PLACES] == call
