"""A page of shared memory in which each process of a model's steps writes a slot of its own and reads the others'.

No lock is taken after the start. What the numbers mean, and what is made of them: `tritext.admission`.
"""

import fcntl
import mmap
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

Slot: TypeAlias = "memoryview[float]"  # its fields, each a double
# Tokens are counted from the board's beginning and never fall; so are the requests that a fence refuses, as BEGUN.
_SLOTS, _FIELDS = 32, 8
KIND, OWNER, EPOCH, SEEN, BEGUN, DONE, RATE, IDLE_SINCE = range(_FIELDS)
GATE, METER, FENCE = 1.0, 2.0, 3.0


class Board:
    """The slots of one model's steps."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        weakref.finalize(self, os.close, self._file)
        size = _SLOTS * _FIELDS * 8
        os.posix_fallocate(self._file, 0, size)  # a full disk is an error here, and not when it is used
        values = memoryview(mmap.mmap(self._file, size)).cast("d")
        self._slots = [values[begin : begin + _FIELDS] for begin in range(0, _SLOTS * _FIELDS, _FIELDS)]

    def claim(self, kind: float) -> Slot:
        """A slot for this process, one whose owner has gone where there is one: its counts go on."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            for slot in self._slots:
                if slot[KIND] == 0.0 or (slot[KIND] == kind and not _lives(int(slot[OWNER]))):
                    slot[KIND], slot[OWNER], slot[EPOCH] = kind, float(os.getpid()), slot[EPOCH] + 1
                    slot[DONE], slot[RATE], slot[IDLE_SINCE] = slot[BEGUN], 0.0, time.monotonic()
                    return slot
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        raise OSError("its board is full")

    @staticmethod
    def release(slot: Slot) -> None:
        """Leave that slot to whoever needs one."""
        slot[OWNER] = 0.0  # no process has this id

    def slots(self, kind: float) -> Iterator[Slot]:
        """Those of that kind that were ever claimed."""
        return (slot for slot in takewhile(itemgetter(KIND), self._slots) if slot[KIND] == kind)


def _lives(process: int) -> bool:
    """Also of one that was killed and not yet waited for: it does not."""
    with suppress(OSError):
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        return status.rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False
