"""Encoders that share cores take turns, one engine call each.

Each encoder's engine has as many threads as there are cores, so that a model alone has the whole machine. Were two to
compute at once, their threads would fight: all threads of a call wait for its slowest. So before each call an encoder
takes a lock, and behind that a place in a queue of one (the "turnstile"), without which whoever has just had its turn
would get the next one too. A call is short (milliseconds), which makes the sharing fair and quick: a request of one
text waits for one call of a request of thousands, not for all of them.

One that takes most of the machine while another wants a little of it makes shorter calls (`Share`), so that the other
waits less. Two that want all of it have each half, and go on with calls of full length, which cost less.

The locks are files (flock): the kernel frees them when their owner dies. One that is stopped keeps them, so patience
is limited, and then everybody goes on without turns for a while.
"""

import fcntl
import hashlib
import logging
import math
import os
import tempfile
import time
import weakref
from pathlib import Path
from types import TracebackType
from typing import Final, Self

TURNS: Final = "TRITEXT_TURNS"  # environment: a folder for the locks; "off": every encoder computes when it likes

_POLL: Final = 0.0003  # seconds
# Longer than most calls take, and than a few in a row. Less than the supervisor has (`tritext.serve.probe`): who waits
# for somebody that hangs is not to be taken for hanging itself.
_PATIENCE: Final = 1.0
_LAPSE: Final = 30.0  # without turns, after somebody's patience was exhausted

_MEMORY: Final = 1.0  # seconds of turns that say how the machine is shared
_LITTLE, _MOST = 0.01, 0.6  # of that time: what another one's use of it is at least, and what greed is

_log: Final = logging.getLogger("tritext")


class Share:
    """How much of the machine is one's own, of late, and how much is others'."""

    def __init__(self) -> None:
        self._held = self._waited = 0.0

    def note(self, waited: float, held: float) -> None:
        """A turn took `held` seconds, and was waited for for `waited`, while others had theirs."""
        fade = math.exp(-(waited + held) / _MEMORY)
        self._held, self._waited = self._held * fade + held, self._waited * fade + waited

    @property
    def is_greedy(self) -> bool:
        """Whether most is one's own, while others want some."""
        whole = self._held + self._waited
        return self._held > _MOST * whole and self._waited > _LITTLE * whole


class Turn:
    """``with turn:`` around each engine call, in every process that uses the same cores."""

    def __init__(self, folder: Path) -> None:
        # Those that are pinned to other cores are no rivals.
        cores = hashlib.sha256(repr(sorted(os.sched_getaffinity(0))).encode()).hexdigest()[:8]
        self._files = [_opened(folder / f"tritext-{os.getuid()}-{cores}-{name}.lock") for name in ("call", "next")]
        weakref.finalize(self, _close, self._files)
        self._lapsed_until = 0.0
        self._mine = False
        self._share = Share()
        self._asked = self._began = 0.0

    def is_greedy(self) -> bool:
        """Whether this encoder has most of the machine, while others want some of it."""
        return self._share.is_greedy

    def __enter__(self) -> Self:
        call, following = self._files
        self._asked = self._began = time.monotonic()
        if time.monotonic() < self._lapsed_until:
            return self
        deadline = time.monotonic() + _PATIENCE
        if _take(following, deadline):
            self._mine = _take(call, deadline)
            fcntl.flock(following, fcntl.LOCK_UN)
        self._began = time.monotonic()
        if not self._mine:
            _log.warning("Another encoder has not ended its call for %g s; going on beside it.", _PATIENCE)
            self._lapsed_until = time.monotonic() + _LAPSE
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            fcntl.flock(self._files[0], fcntl.LOCK_UN)
            self._mine = False
            self._share.note(self._began - self._asked, time.monotonic() - self._began)


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


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _take(file: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL)
        else:
            return True
