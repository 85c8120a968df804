"""Encoders that share cores take turns, one engine call each.

Each encoder's engine has as many threads as there are cores, so that a model alone has the whole machine. Were two to
compute at once, their threads would fight: all threads of a call wait for its slowest. So before each call an encoder
takes a lock, and behind that a place in a queue of one (the "turnstile"), without which whoever has just had its turn
would get the next one too. A call is short (milliseconds), which makes the sharing fair and quick: a request of one
text waits for one call of a request of thousands, not for all of them.

One that keeps most of the machine for seconds while another wants some of it makes shorter calls (`Share`), so that the
other waits less. Calls of full length cost less: a spike goes on with them.

Those that want all of it, each as much as the others, compute beside each other instead, each on half of the cores
(`Turn.beside`): where all are wanted all the time, threads of a call that need not wait for others cost less. Who asks
for the whole machine meanwhile gets its turn when all of them have ended their calls.

The locks are files (flock): the kernel frees them when their owner dies. One that is stopped keeps them, so patience
is limited, and then everybody goes on without turns for a while, on half of the cores.
"""

import contextlib
import errno
import fcntl
import hashlib
import logging
import math
import os
import select
import stat
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

TURNS: Final = "TRITEXT_TURNS"  # environment: a folder for the locks; "off": every encoder computes when it likes

_LOOK: Final = 0.05  # seconds between looks at a lock whose owner may have died, and rings no bell
# Longer than most calls take, and than a few in a row. Less than the supervisor has (`tritext.serve.probe`): who waits
# for somebody that hangs is not to be taken for hanging itself.
_PATIENCE: Final = 1.0
_LAPSE: Final = 30.0  # without turns, after somebody's patience was exhausted

_MEMORY: Final = 4.0  # seconds that say how the machine is shared
# Of that time: what one's own use of it is at least, and another's. A spike of two seconds is no greed, nor does a tiny
# inference that asks whether somebody is alive want anything.
_MOST, _SOME = 0.5, 0.03
_GREED: Final = 2  # times as much as the others have: two alike that want all of it have now one, now the other more
_LATELY: Final = 1.0  # seconds that say whether the machine is wanted by several, each as much
_EACH: Final = 0.3  # of that time: what each of them uses at least; 0.5 is all there is for two
_HALF: Final = 0.5  # of the machine, that one beside another has

_log: Final = logging.getLogger("tritext")


class Share:
    """How much of the machine is one's own, of late, and how much is others'; `memory` seconds are of late."""

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._own = self._others = 0.0
        self._noted = time.monotonic()

    def note(self, own: float, others: float, now: float) -> None:
        """Until `now` one had the machine for `own` more seconds, and others for `others`, that one knows of."""
        fade = self._fade(now)
        self._own, self._others, self._noted = self._own * fade + own, self._others * fade + others, now

    def is_greedy(self, now: float) -> bool:
        """Whether most has been one's own for a while, and others want some."""
        own, others = self._shares(now)
        return own > max(_MOST, _GREED * others) and others > _SOME

    def is_even(self, now: float) -> bool:
        """Whether both have been a good part of what there is."""
        return min(self._shares(now)) > _EACH

    def _shares(self, now: float) -> tuple[float, float]:
        fade = self._fade(now) / self._memory
        return self._own * fade, self._others * fade

    def _fade(self, now: float) -> float:
        return math.exp((self._noted - now) / self._memory)


class Turn:
    """``with turn:`` around each engine call, in every process that uses the same cores.

    Or ``with turn.beside():`` around one on half of them, while others may have theirs.
    """

    def __init__(self, folder: Path) -> None:
        # Those that are pinned to other cores are no rivals.
        cores = hashlib.sha256(repr(sorted(os.sched_getaffinity(0))).encode()).hexdigest()[:8]
        prefix = f"tritext-{os.getuid()}-{cores}"
        self._call, self._next = (_Lock(folder / f"{prefix}-{name}") for name in ("call", "next"))
        self._lapsed_until = 0.0
        self._mine = self._has_company = False
        self._share, self._lately = Share(_MEMORY), Share(_LATELY)
        self._asked = self._began = 0.0

    def is_greedy(self) -> bool:
        """Whether this encoder has most of the machine, while others want some of it."""
        return self._share.is_greedy(time.monotonic())

    def prefers_half(self) -> bool:
        """Whether this encoder and others want the machine, each as much, or go on without turns.

        Calls on all cores that meet others take many times as long: whenever a thread waits for one that has no core,
        it leaves its own to others for a millisecond or more.
        """
        now = time.monotonic()
        return now < self._lapsed_until or self._lately.is_even(now)

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """A turn on half of the cores."""
        self._begin(is_shared=True)
        try:
            yield
        finally:
            self._end(_HALF)

    def __enter__(self) -> Self:
        self._begin(is_shared=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(1.0)

    def _begin(self, *, is_shared: bool) -> None:
        self._asked = self._began = time.monotonic()
        if self._asked < self._lapsed_until:
            return
        deadline = self._asked + _PATIENCE
        if self._next.take(deadline):
            try:
                self._has_company = is_shared and not self._call.is_free()
                self._mine = self._call.take(deadline, is_shared=is_shared)
            finally:
                self._next.free()
        self._began = time.monotonic()
        if not self._mine:
            _log.warning("Another encoder has not ended its call for %g s; going on beside it.", _PATIENCE)
            self._lapsed_until = time.monotonic() + _LAPSE

    def _end(self, part: float) -> None:
        """Of a turn on that `part` of the cores."""
        if not self._mine:
            return
        self._call.free()
        self._mine = False
        now = time.monotonic()
        own = part * (now - self._began)
        others = self._began - self._asked + (own if self._has_company else 0.0)
        for share in (self._share, self._lately):
            share.note(own, others, now)


class NoTurn:
    """For an encoder that has its cores for itself."""

    def is_greedy(self) -> bool:
        """Nobody else wants them."""
        return False

    def prefers_half(self) -> bool:
        """It has them all."""
        return False

    def beside(self) -> Self:
        """There is nobody."""
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def turn() -> Turn | NoTurn:
    """The turn of this process, as the environment says; none where no file can be had."""
    folder = os.environ.get(TURNS)
    if folder == "off":
        return NoTurn()
    try:
        return Turn(Path(folder or tempfile.gettempdir()))
    except OSError as error:
        _log.warning("Encoders do not take turns: %s.", error)
        return NoTurn()


class _Lock:
    """The file `path`.lock, which one process has, or several share; and a bell, a named pipe, that wakes who waits.

    The kernel lets a process wait for the file, but for ever. Who looks again and again instead waits too long, or
    takes from the call that he waits for.
    """

    def __init__(self, path: Path) -> None:
        self._file = self._opened(f"{path}.lock", os.O_CREAT, stat.S_ISREG)
        try:
            os.mkfifo(f"{path}.bell", 0o600)
        except FileExistsError:
            pass
        except OSError as error:
            error.filename = f"{path}.bell"
            raise
        self._bell = self._opened(f"{path}.bell", os.O_NONBLOCK, stat.S_ISFIFO)
        self._ear = select.epoll()
        with self._listening():  # that this can be is to be known now, and not when a request waits
            pass

    def is_free(self) -> bool:
        """Whether nobody has it. Not to be asked while another may be taking it: it is taken for that."""
        if is_free := self._is_taken():
            fcntl.flock(self._file, fcntl.LOCK_UN)
        return is_free

    def take(self, deadline: float, *, is_shared: bool = False) -> bool:
        """Whether it was had by the `deadline`."""
        if self._is_taken(is_shared=is_shared):
            return True
        with self._listening():
            while not self._is_taken(is_shared=is_shared):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                if self._ear.poll(min(left, _LOOK)):
                    with contextlib.suppress(BlockingIOError):  # another one has heard it too
                        os.read(self._bell, 1 << 16)
        return True

    def free(self) -> None:
        """Let the next one have it."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        with contextlib.suppress(BlockingIOError):  # it has been ringing for long
            os.write(self._bell, b".")

    def _opened(self, path: str, flags: int, is_kind: Callable[[int], bool]) -> int:
        """The file, open as long as this lock is there; OSError where it is another's, who might keep it for ever."""
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
        weakref.finalize(self, os.close, file)
        found = os.fstat(file)
        if found.st_uid != os.geteuid() or not is_kind(found.st_mode):
            raise PermissionError(errno.EPERM, "it is not this user's, or of another kind", path)
        return file

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Behind those that came before, of whom the bell wakes one: else who has just had it may be the next too."""
        self._ear.register(self._bell, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        try:
            yield
        finally:
            self._ear.unregister(self._bell)

    def _is_taken(self, *, is_shared: bool = False) -> bool:
        try:
            fcntl.flock(self._file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
