"""Bounded admission, counted in tokens: the tokenizer step refuses what the encoder step could not begin in time.

The steps of a model are processes of their own, so they share a board. The tokenizer step (`Gate`) adds the tokens that
it lets through; the encoder step (`Meter`) adds those it has begun and ended, and how many a second it manages while it
is busy. What was let through and not begun waits (`Queue`): divided by the rate, that is the time a new request would
wait. Counting requests instead would let one of thousands of texts hide behind a one. The fence in front of gRPC reads
the same board, and refuses what would only come here to be refused: `tritext.serve.shedding`.

Requests get lost on the way (a caller's own timeout, an encoder that dies), so what was let through does not count for
ever: see `Queue`. Without the two environment variables, as under a plain tritonserver, nothing is refused.
"""

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from tritext.board import BEGUN, DONE, EPOCH, FENCE, GATE, IDLE_SINCE, METER, RATE, SEEN, Board
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
_LENIENCE: Final = 1.25  # with fences' estimates
_SOONEST, _LATEST = 0.1, 1.0  # seconds; to come again costs little, and another encoder process may be free by then

T = TypeVar("T")

_log: Final = logging.getLogger("tritext")


def environment(segments: str, goal: float) -> dict[str, str]:
    """What a server sets for its steps; the boards go when it removes the `segments` of shared memory."""
    return {BOARDS: boards(segments), LATENCY_GOAL: repr(goal)}


def boards(segments: str) -> str:
    """How the paths of the boards of that server begin."""
    return f"{_SHARED_MEMORY}/{segments}board_"


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


@dataclass(slots=True)
class Pressure:
    """What waits at a moment: `ahead` seconds of work, at `rate` tokens a second (0: not known)."""

    goal: float
    ahead: float
    rate: float

    def refusal(self, timeout: float | None, *, was_let_in: bool = False) -> Overload | None:
        """Why a request with that `timeout` in seconds (None: it has none) cannot be begun in time; None where it can.

        Its own size does not count, so that a large one is never refused for ever. A fence that has let it in estimated
        what would wait: unless it erred by far it is not refused after all, when it has stood in line already.
        """
        if self.ahead > self.goal * (_LENIENCE if was_let_in else 1.0):
            return Overload(self.ahead, self.goal, None)
        if timeout is not None and self.ahead > timeout:
            return Overload(self.ahead, self.goal, timeout)
        return None


class Meter:
    """The encoder's side: what it has begun and ended, in tokens, and its rate."""

    def __init__(self, board: Board) -> None:
        self._slot = board.claim(METER)
        self._tokens = self._seconds = 0.0  # of late
        self._began = self._ended = 0.0  # of the batch at hand
        self.beat()

    def beat(self) -> None:
        """A sign of life, to be given every second or so."""
        self._slot[SEEN] = time.monotonic()

    def begin(self, tokens: int) -> None:
        """A batch of so many tokens begins."""
        self._began = time.monotonic()
        self._ended = 0.0
        self._slot[IDLE_SINCE] = 0.0
        self._slot[BEGUN] += tokens

    def progress(self, tokens: int) -> None:
        """So many of them are done."""
        now = time.monotonic()
        self._slot[DONE] += tokens
        self._slot[SEEN] = now
        self._ended += tokens
        self._publish(self._tokens + self._ended, self._seconds + now - self._began)

    def end(self) -> None:
        """The batch has ended, whether or not all of it was done."""
        now = time.monotonic()
        elapsed = now - self._began
        kept = 0.5 ** (elapsed / _HALF_LIFE)
        self._tokens, self._seconds = self._tokens * kept + self._ended, self._seconds * kept + elapsed
        self._publish(self._tokens, self._seconds)
        self._slot[DONE] = self._slot[BEGUN]
        self._slot[IDLE_SINCE] = self._slot[SEEN] = now

    def _publish(self, tokens: float, seconds: float) -> None:
        if seconds > _ENOUGH:
            self._slot[RATE] = tokens / seconds


class Queue:
    """What waits for a model's encoders, as whoever reads the `board` can tell; `goal` is the latency goal.

    What was let through stops to count, begun or not, when an encoder has been idle for a moment, when it has been
    restarted, and in any case after a few latency goals: so no loss on the way eats the budget for ever.
    """

    def __init__(self, board: Board, goal: float) -> None:
        self.goal = goal
        self._board = board
        self._history: deque[tuple[float, float]] = deque()  # when, and what all gates had let through by then
        self._epochs: list[float] = []
        self._lost = 0.0  # of what was let through, what will never be begun

    def pressure(self) -> Pressure:
        """What waits now; nothing where no encoder is there that says how fast it is."""
        now = time.monotonic()
        admitted = sum([slot[BEGUN] for slot in self._board.slots(GATE)])
        begun = rate = 0.0
        free_in, epochs, idle = math.inf, [], False
        for slot in self._board.slots(METER):
            begun += slot[BEGUN]
            epochs.append(slot[EPOCH])
            own = slot[RATE]  # its owner may change it meanwhile
            if now - slot[SEEN] < _STALE and own > 0.0:
                rate += own
                free_in = min(free_in, max(0.0, slot[BEGUN] - slot[DONE]) / own)
                idle = idle or 0.0 < slot[IDLE_SINCE] < now - _SETTLED
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


class Gate:
    """The tokenizer's side: how long a new request would wait, and what is let through all the same."""

    def __init__(self, board: Board, goal: float) -> None:
        self._board = board
        self._slot = board.claim(GATE)
        self._queue = Queue(board, goal)
        self._refused = self._refused_by_fences()  # before this process was there

    def let_through(self, tokens: int) -> None:
        """So many more tokens are on their way to the encoder."""
        self._slot[BEGUN] += tokens

    def pressure(self) -> Pressure:
        """What waits now."""
        return self._queue.pressure()

    def refused_before(self) -> float:
        """Requests so far that fences refused, which never came here; of several gates the first tells of them."""
        is_first = next(self._board.slots(GATE)) is self._slot
        return self._refused_by_fences() - self._refused if is_first else 0.0

    def _refused_by_fences(self) -> float:
        return sum([slot[BEGUN] for slot in self._board.slots(FENCE)])


def board_path(boards: str, model: str, build: str) -> Path:
    """Of the board that all steps of that build of `model` share; `boards` is how the paths begin."""
    return Path(f"{boards}{model}_{build}")


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
    """Of the board of the step in that version folder."""
    boards, step = os.environ.get(BOARDS), STEP_PATTERN.fullmatch(version.parent.name)
    return board_path(boards, step["name"], step["build"]) if boards and step else None


def _made(version: Path, make: Callable[[], T]) -> T | None:
    try:
        return make()
    except OSError as error:
        _log.warning("%s works without admission: its board cannot be had (%s).", version.parent.name, error)
        return None
