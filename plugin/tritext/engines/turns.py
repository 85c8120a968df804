"""Encoders that share cores take turns, one engine call each.

Each encoder's engine has as many threads as there are cores, so that a model alone has the whole machine. Were two to
compute at once, their threads would fight: all threads of a call wait for its slowest. So before each call an encoder
takes a lock, and behind that a place in a queue of one (the "turnstile"), without which whoever has just had its turn
would get the next one too. A call is short (milliseconds), which makes the sharing fair and quick: a request of one
text waits for one call of a request of thousands, not for all of them.

One that keeps most of the machine for seconds while another wants some of it makes shorter calls (`Share`), so that the
other waits less. Calls of full length cost less: a spike goes on with them, and so do two that want all of it.

The locks are files (flock): the kernel frees them when their owner dies. One that is stopped keeps them, so patience
is limited, and then everybody goes on without turns for a while.
"""

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import select
import tempfile
import time
import weakref
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
_GREED: Final = 2  # times as much as the others have: two that want all of it have the same, now one a little more
_SAFELY: Final = os.O_CLOEXEC | os.O_NOFOLLOW

_log: Final = logging.getLogger("tritext")


class Share:
    """How much of the machine is one's own, of late, and how much is others'."""

    def __init__(self) -> None:
        self._held = self._waited = 0.0
        self._noted = time.monotonic()

    def note(self, waited: float, held: float, now: float) -> None:
        """A turn that ended `now` took `held` seconds, and was waited for for `waited`, while others had theirs."""
        fade = math.exp((self._noted - now) / _MEMORY)
        self._held, self._waited, self._noted = self._held * fade + held, self._waited * fade + waited, now

    @property
    def is_greedy(self) -> bool:
        """Whether most has been one's own for a while, and others want some."""
        others = self._waited
        return self._held > max(_MOST * _MEMORY, _GREED * others) and others > _SOME * _MEMORY


class Turn:
    """``with turn:`` around each engine call, in every process that uses the same cores."""

    def __init__(self, folder: Path) -> None:
        # Those that are pinned to other cores are no rivals.
        cores = hashlib.sha256(repr(sorted(os.sched_getaffinity(0))).encode()).hexdigest()[:8]
        prefix = f"tritext-{os.getuid()}-{cores}"
        self._call, self._next = (_Lock(folder / f"{prefix}-{name}") for name in ("call", "next"))
        self._lapsed_until = 0.0
        self._mine = False
        self._share = Share()
        self._asked = self._began = 0.0

    def is_greedy(self) -> bool:
        """Whether this encoder has most of the machine, while others want some of it."""
        return self._share.is_greedy

    def __enter__(self) -> Self:
        self._asked = self._began = time.monotonic()
        if self._asked < self._lapsed_until:
            return self
        deadline = self._asked + _PATIENCE
        if self._next.take(deadline):
            self._mine = self._call.take(deadline)
            self._next.free()
        self._began = time.monotonic()
        if not self._mine:
            _log.warning("Another encoder has not ended its call for %g s; going on beside it.", _PATIENCE)
            self._lapsed_until = time.monotonic() + _LAPSE
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            self._call.free()
            self._mine = False
            now = time.monotonic()
            self._share.note(self._began - self._asked, now - self._began, now)


class NoTurn:
    """For an encoder that has its cores for itself."""

    def is_greedy(self) -> bool:
        """Nobody else wants them."""
        return False

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
    """The file `path`.lock, which one process has at a time; and a bell, a named pipe, that wakes who waits for it.

    The kernel lets a process wait for the file, but for ever. Who looks again and again either waits too long or takes
    from the call that he waits for: every 0.3 ms cost two busy encoders a tenth of their throughput.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | _SAFELY, 0o600)
        weakref.finalize(self, os.close, self._file)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(f"{path}.bell", 0o600)
        self._bell = os.open(f"{path}.bell", os.O_RDWR | os.O_NONBLOCK | _SAFELY)
        weakref.finalize(self, os.close, self._bell)
        self._ear = select.epoll()

    def take(self, deadline: float) -> bool:
        """Whether it was had by the `deadline`."""
        while not self._is_taken():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._listen(min(left, _LOOK))
        return True

    def free(self) -> None:
        """Let the next one have it."""
        fcntl.flock(self._file, fcntl.LOCK_UN)
        with contextlib.suppress(BlockingIOError):  # it has been ringing for long
            os.write(self._bell, b".")

    def _listen(self, patience: float) -> None:
        """Wait behind those that came before, of whom the bell wakes one: else who has just had it may be first."""
        self._ear.register(self._bell, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        try:
            if self._ear.poll(patience):
                os.read(self._bell, 1 << 16)
        except BlockingIOError:  # another one has heard it too
            pass
        finally:
            self._ear.unregister(self._bell)

    def _is_taken(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
