"""What the fences and the steps behind them tell each other of single calls, in shared memory.

The fences number each call, in a header that Triton passes on to every step as a request parameter. That of gRPC notes
which of them nobody waits for any more, so that work for these is not begun; Triton is not told: see
`tritext.serve.grpc_fence`. The first step notes which of them it has judged, so that the fences know what is still on
its way there: see `tritext.serve.shedding`.

Imports nothing but the standard library: each step loads it.
"""

import hashlib
import mmap
import os
from pathlib import Path
from typing import Final, Self

TABLE: Final = "TRITEXT_CALLS"  # environment: the table's path

_PLACES: Final = 8192  # many numbers have the same
_COLUMNS: Final = 3
_BYTES: Final = 8


_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where the Python backend keeps its segments, which go the same way


def path(segments: str) -> Path:
    """The table of the server whose `segments` of shared memory begin so."""
    return _SHARED_MEMORY / f"{segments}calls"


def header(table: Path) -> str:
    """What the calls of that table have their numbers in: callers cannot guess it, in whatever way they send it."""
    return f"tritext-call-{hashlib.sha256(table.name.encode()).hexdigest()[:16]}"


def environment(segments: str) -> dict[str, str]:
    """What a server sets for its steps."""
    return {TABLE: str(path(segments))}


def number(sent: object) -> int:
    """The call's, as the header gives it; 0 where it gives none."""
    return int(sent) if isinstance(sent, str) and sent.isdecimal() and len(sent) < 20 else 0


class Calls:
    """The table in the file `table`. Calls are numbered from 1 on; each column is written by one side."""

    def __init__(self, table: Path) -> None:
        self.header = header(table)
        file = os.open(table, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            size = _COLUMNS * _PLACES * _BYTES
            os.posix_fallocate(file, 0, size)  # a full disk is an error here, and not when it is used
            values = memoryview(mmap.mmap(file, size)).cast("Q")
        finally:
            os.close(file)
        self._given_up, self._judged, self._tokens = (
            values[begin : begin + _PLACES] for begin in range(0, _COLUMNS * _PLACES, _PLACES)
        )

    @classmethod
    def from_environment(cls) -> Self | None:
        """That of the server that started this process; None where it has none."""
        there = os.environ.get(TABLE)
        return cls(Path(there)) if there else None

    def give_up(self, call: int) -> None:
        """Nobody waits for `call`."""
        self._given_up[call % _PLACES] = call

    def is_given_up(self, call: int) -> bool:
        """Whether nobody waits for `call`; 0 is none."""
        return call > 0 and self._given_up[call % _PLACES] == call

    def judge(self, call: int, tokens: int = 0) -> None:
        """The first step let through so many tokens of `call`, or refused it.

        Of calls with the same place the last one stays: what was once judged is never taken back.
        """
        place = call % _PLACES
        if call <= self._judged[place]:
            return
        self._tokens[place] = tokens
        self._judged[place] = call

    def judged(self, call: int) -> int | None:
        """The tokens of `call` that were let through; None where it was not judged, or a later one has its place."""
        place = call % _PLACES
        return self._tokens[place] if self._judged[place] == call else None
