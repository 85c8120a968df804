"""Bounded admission, counted in tokens: the tokenizer step refuses what the encoder step could not begin in time.

The steps of a model are processes of their own, so they share a board: a file of one page in shared memory, in which
each process writes a slot of its own and reads those of the others. No lock is taken after the start. The tokenizer
step (`Gate`) adds the tokens that it lets through; the encoder step (`Meter`) adds those it has begun and ended, and
how many a second it manages while it is busy. What was let through and not begun waits: divided by the rate, that is
the time a new request would wait. Counting requests instead would let one of thousands of texts hide behind a one.

Requests get lost on the way (a caller's own timeout, an encoder that dies), so what was let through does not count for
ever: see `Gate`. Without the two environment variables, as under a plain tritonserver, nothing is refused.
"""

import fcntl
import logging
import math
import mmap
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from operator import itemgetter
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from tritext.deadlines import Deadlines
from tritext.naming import STEP_PATTERN

BOARDS: Final = "TRITEXT_BOARDS"  # environment: how the paths of the boards begin
LATENCY_GOAL: Final = "TRITEXT_LATENCY_GOAL"  # environment: seconds; `serve --latency-goal` sets it

# One client with its four requests of 32 ordinary texts is not refused, also where a core manages a thousand tokens a
# second; and somebody who waits for an answer hears of an overload while still there.
DEFAULT_GOAL: Final = 5.0

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - where the Python backend keeps its segments, which go the same way
_STALE: Final = 5.0  # seconds without a sign of life, and an encoder is not counted on
_SETTLED: Final = 1.0  # seconds; on a starved machine an encoder may stand idle for tenths of one with its queue full
_GOALS: Final = 4  # after so many latency goals nothing waits any more: it was lost
_HALF_LIFE: Final = 0.5  # seconds of work; of the measured rate
_ENOUGH: Final = 0.1  # seconds of work, before which no rate is told
_SOONEST, _LATEST = 0.1, 1.0  # seconds; to come again costs little, and another encoder process may be free by then

T = TypeVar("T")

_log: Final = logging.getLogger("tritext")


def environment(segments: str, goal: float) -> dict[str, str]:
    """What a server sets for its steps; the boards go when it removes the `segments` of shared memory."""
    return {BOARDS: f"{_SHARED_MEMORY}/{segments}board_", LATENCY_GOAL: repr(goal)}


@dataclass(frozen=True, slots=True)
class Overload:
    """Why a request is refused: `ahead` seconds of work wait already. To be tried again in `again` seconds."""

    ahead: float
    goal: float
    timeout: float | None  # the request's own, where that is what cannot be kept

    @property
    def again(self) -> float:
        """When half of what may wait has gone: before that a caller would only meet all others again."""
        return min(max(_SOONEST, self.ahead - min(self.goal, self.timeout or self.goal) / 2), _LATEST)

    def __str__(self) -> str:
        limit = (
            f"its latency goal is {self.goal:g} s"
            if self.timeout is None
            else f"this request may take {self.timeout:.3g} s"
        )
        return (
            f"There are {self.ahead:.1f} s of work waiting for this model already, and {limit}. "
            f"Try again in {self.again:.1f} s."
        )


Slot: TypeAlias = "memoryview[float]"  # its fields, each a double
# Tokens are counted from the board's beginning and never fall.
_SLOTS, _FIELDS = 32, 8
_KIND, _OWNER, _EPOCH, _SEEN, _BEGUN, _DONE, _RATE, _IDLE_SINCE = range(_FIELDS)
_GATE, _METER = 1.0, 2.0


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
                if slot[_KIND] == 0.0 or (slot[_KIND] == kind and not _lives(int(slot[_OWNER]))):
                    slot[_KIND], slot[_OWNER], slot[_EPOCH] = kind, float(os.getpid()), slot[_EPOCH] + 1
                    slot[_DONE], slot[_RATE], slot[_IDLE_SINCE] = slot[_BEGUN], 0.0, time.monotonic()
                    return slot
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        raise OSError("its board is full")

    def slots(self) -> Iterator[Slot]:
        """Those that were ever claimed."""
        return takewhile(itemgetter(_KIND), self._slots)


@dataclass(slots=True)
class Pressure:
    """What waits at a moment: `ahead` seconds of work, at `rate` tokens a second (0: not known)."""

    goal: float
    ahead: float
    rate: float

    def refusal(self, timeout: float | None) -> Overload | None:
        """Why a request with that `timeout` in seconds (None: it has none) cannot be begun in time; None where it can.

        Its own size does not count, so that a large one is never refused for ever.
        """
        if self.ahead > self.goal:
            return Overload(self.ahead, self.goal, None)
        if timeout is not None and self.ahead > timeout:
            return Overload(self.ahead, self.goal, timeout)
        return None

    def add(self, tokens: float, seconds: float = 0.0) -> None:
        """So many tokens more, and so many seconds in front of the encoder."""
        self.ahead += seconds + (tokens / self.rate if self.rate else 0.0)


class Meter:
    """The encoder's side: what it has begun and ended, in tokens, and its rate."""

    def __init__(self, board: Board) -> None:
        self._slot = board.claim(_METER)
        self._tokens = self._seconds = 0.0  # of late
        self._began = self._ended = 0.0  # of the batch at hand
        self.beat()

    def beat(self) -> None:
        """A sign of life, to be given every second or so."""
        self._slot[_SEEN] = time.monotonic()

    def begin(self, tokens: int) -> None:
        """A batch of so many tokens begins."""
        self._began = time.monotonic()
        self._ended = 0.0
        self._slot[_IDLE_SINCE] = 0.0
        self._slot[_BEGUN] += tokens

    def progress(self, tokens: int) -> None:
        """So many of them are done."""
        now = time.monotonic()
        self._slot[_DONE] += tokens
        self._slot[_SEEN] = now
        self._ended += tokens
        self._publish(self._tokens + self._ended, self._seconds + now - self._began)

    def end(self) -> None:
        """The batch has ended, whether or not all of it was done."""
        now = time.monotonic()
        elapsed = now - self._began
        kept = 0.5 ** (elapsed / _HALF_LIFE)
        self._tokens, self._seconds = self._tokens * kept + self._ended, self._seconds * kept + elapsed
        self._publish(self._tokens, self._seconds)
        self._slot[_DONE] = self._slot[_BEGUN]
        self._slot[_IDLE_SINCE] = self._slot[_SEEN] = now

    def _publish(self, tokens: float, seconds: float) -> None:
        if seconds > _ENOUGH:
            self._slot[_RATE] = tokens / seconds


class Gate:
    """The tokenizer's side: how long a new request would wait, and whether that is too long.

    What was let through stops to count, begun or not, when an encoder has been idle for a moment, when it has been
    restarted, and in any case after a few latency goals: so no loss on the way eats the budget for ever.
    """

    def __init__(self, board: Board, goal: float) -> None:
        self.goal = goal
        self._board = board
        self._slot = board.claim(_GATE)
        self._history: deque[tuple[float, float]] = deque()  # when, and what all gates had let through by then
        self._epochs: list[float] = []
        self._lost = 0.0  # of what was let through, what will never be begun

    def let_through(self, tokens: int) -> None:
        """So many more tokens are on their way to the encoder."""
        self._slot[_BEGUN] += tokens

    def pressure(self) -> Pressure:
        """What waits now; nothing where no encoder is there that says how fast it is."""
        now = time.monotonic()
        admitted = begun = rate = 0.0
        free_in, epochs, idle = math.inf, [], False
        for slot in self._board.slots():
            if slot[_KIND] == _GATE:
                admitted += slot[_BEGUN]
                continue
            begun += slot[_BEGUN]
            epochs.append(slot[_EPOCH])
            own = slot[_RATE]  # its owner may change it meanwhile
            if now - slot[_SEEN] < _STALE and own > 0.0:
                rate += own
                free_in = min(free_in, max(0.0, slot[_BEGUN] - slot[_DONE]) / own)
                idle = idle or 0.0 < slot[_IDLE_SINCE] < now - _SETTLED
        if epochs != self._epochs:  # what the former one had before it failed
            self._epochs, self._lost = epochs, admitted - begun
        waiting = self._waiting(now, admitted, begun, idle=idle)
        self._note(now, admitted)
        return Pressure(self.goal, waiting / rate + free_in, rate) if rate else Pressure(self.goal, 0.0, 0.0)

    def _waiting(self, now: float, admitted: float, begun: float, *, idle: bool) -> float:
        recent = admitted - self._admitted_by(now - (_SETTLED if idle else _GOALS * self.goal))
        waiting = admitted - begun - self._lost
        bounded = min(max(waiting, 0.0), recent)  # below 0: a step was asked by itself
        self._lost += waiting - bounded
        return bounded

    def _admitted_by(self, when: float) -> float:
        """What had been let through at that time."""
        history = self._history
        while len(history) > 1 and history[1][0] <= when:
            history.popleft()
        return history[0][1] if history and history[0][0] <= when else -math.inf

    def _note(self, now: float, admitted: float) -> None:
        if not self._history or now - self._history[-1][0] > _SETTLED / 50:
            self._history.append((now, admitted))


def gate(version: Path) -> Gate | None:
    """For the tokenizer step in that version folder; None where the environment does not ask for one."""
    try:
        goal = float(os.environ.get(LATENCY_GOAL, "0"))
    except ValueError:
        goal = 0.0
    path = _path(version)
    return _made(version, lambda: Gate(Board(path), goal)) if path and goal > 0 else None


def meter(version: Path) -> Meter | None:
    """For the encoder step in that version folder; None as in `gate`."""
    path = _path(version)
    return _made(version, lambda: Meter(Board(path))) if path else None


def deadlines(version: Path) -> Deadlines | None:
    """For both steps; None as in `gate`."""
    path = _path(version)
    return _made(version, lambda: Deadlines(path.with_name(f"{path.name}_deadlines"))) if path else None


def _path(version: Path) -> Path | None:
    """Of the board that all steps of a build share."""
    prefix, step = os.environ.get(BOARDS), STEP_PATTERN.fullmatch(version.parent.name)
    return Path(f"{prefix}{step['name']}_{step['build']}") if prefix and step else None


def _made(version: Path, make: Callable[[], T]) -> T | None:
    try:
        return make()
    except OSError as error:
        _log.warning("%s works without admission: its board cannot be had (%s).", version.parent.name, error)
        return None


def _lives(process: int) -> bool:
    """Also of one that was killed and not yet waited for: it does not."""
    with suppress(OSError):
        status = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
        return status.rpartition(")")[2].split()[0] not in {"Z", "X"}
    return False
