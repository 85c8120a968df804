"""Load shedding and a turnstile: which requests the fences let into Triton, and when.

**Shedding.** The first step judges best whether a model has time for a request, since it knows its tokens, but each
refusal of its costs Triton and itself some 0.4 ms of processor: 5,000 at once keep two cores busy for a second, in
which nobody hears anything. A refusal by a fence costs a fiftieth of that. It reads the same board as that step
(`tritext.admission`), and adds what it has let in and that step has not judged yet, at the tokens for a byte that the
judged ones had, and at most as many as one of them: long texts are cut.

**Turnstile.** Triton 2.51 destroys a batch's record while its batcher still holds the lock in it, and so writes into
memory that is somebody else's, from the moment on that more than 1,000 requests wait to be begun
(`DynamicBatchScheduler::NewPayload`, once the pool of `RateLimiter` is full; found with valgrind). It dies of that some
requests later. The first step takes one request at a time, so all that wait for it count. Few of them are let in at a
time, and the others wait here; that costs nothing, as the step is never left without work.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritext.admission import Overload, Pressure, Queue
from tritext.board import BEGUN, FENCE, Board, Slot
from tritext.calls import Calls

_WEIGHT: Final = 1.25  # of what is on its way: while many are judged, the encoder has less of the machine
_FRESH: Final = 0.002  # seconds for which what was read of the board is good
_HALF_LIFE: Final = 20_000.0  # bytes of requests, of what is known of their tokens
_FORGOTTEN: Final = 0.999  # of the largest, by each that follows
_INSIDE: Final = 400  # requests in Triton that were not judged, of each of two fences
_OF_ONE: Final = 128  # of them, of one model
_LOOK: Final = 0.001  # seconds between two looks whether more may go in

_log: Final = logging.getLogger("tritext")

Go = Callable[[], int]
"""Lets a request into Triton: its number, 0 where nobody waits for it any more."""


class Shedder:
    """One fence's. `board` gives the path of a served model's board, None where the model is not served.

    Belongs to one event loop. Requests are numbered as in `calls`; `goal` is the latency goal, 0 for none.
    """

    def __init__(self, calls: Calls, goal: float, board: Callable[[str], Path | None]) -> None:
        self._calls, self._goal, self._board = calls, goal, board
        self._lines: dict[bytes, _Line] = {}
        self._inside: dict[int, bool] = {}  # of each call that is not known to have been judged: is it answered?
        self._others = self._made(0.0, lambda: None)  # whatever callers invent is not remembered
        self._is_looking = False

    def refusal(self, model: bytes) -> Overload | None:
        """Why a request to `model` is refused; None where it may go on. Its own size does not count."""
        return self._line(model).refusal()

    @property
    def header(self) -> str:
        """What tells the first step a call's number."""
        return self._calls.header

    def enter(self, model: bytes, size: int, go: Go, *, is_told: bool = True) -> None:
        """Have `go` called when a call that asks `model` may go into Triton: now, or when there is room.

        All of it must be here: who announces a long message, and does not send it, would keep everybody else out.
        `size` is that of its message in bytes. Without `is_told` the first step does not learn its number: it counts as
        judged once it is answered.
        """
        line = self._line(model)
        line.enter(size, go, is_told=is_told)
        line.let_in(self._room())
        if line.is_waiting and not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_LOOK, self._look)

    def answered(self, call: int) -> None:
        """`call`, which was let in, has its answer, perhaps from Triton itself, or never will."""
        if call in self._inside:
            self._inside[call] = True

    def _made(self, goal: float, path: Callable[[], Path | None]) -> "_Line":
        return _Line(self._calls, self._inside, goal, path)

    def _line(self, model: bytes) -> "_Line":
        line = self._lines.get(model)
        if line is None:
            name = model.decode("utf-8", "replace")
            if self._board(name) is None:
                return self._others
            line = self._lines[model] = self._made(self._goal, lambda: self._board(name))
        return line

    def _room(self) -> int:
        return min(_OF_ONE, max(1, _INSIDE // (len(self._lines) + 1)))

    def _look(self) -> None:
        room = self._room()
        self._is_looking = False
        for line in (*self._lines.values(), self._others):
            line.settle()
            line.let_in(room)
            self._is_looking = self._is_looking or line.is_waiting
        if self._is_looking:
            asyncio.get_running_loop().call_later(_LOOK, self._look)


@dataclass(frozen=True, slots=True)
class _Coming:
    """A call with a message of `size` bytes, and the tokens that are `expected` of it; the rest as of `Shedder`."""

    size: int
    expected: float
    is_told: bool


class _Line:
    """Who stands in line for one model: outside, and in Triton until they are judged."""

    def __init__(self, calls: Calls, answers: dict[int, bool], goal: float, path: Callable[[], Path | None]) -> None:
        self._calls, self._answers, self._goal, self._path = calls, answers, goal, path
        self._at: Path | None = None  # of the board
        self._queue: Queue | None = None
        self._count: Slot | None = None  # where refusals are counted
        self._outside: deque[tuple[_Coming, Go]] = deque()
        self._inside: deque[tuple[int, _Coming]] = deque()  # by their numbers
        self._expected = 0.0  # tokens of both, but for those inside that the first step does not know
        self._known_bytes = self._known_tokens = self._most = 0.0  # of calls that were let through of late
        self._read_at = 0.0
        self._pressure = Pressure(goal, 0.0, 0.0)
        self._since = 0  # tokens let through since it was read

    @property
    def is_waiting(self) -> bool:
        """Whether anybody is outside."""
        return bool(self._outside)

    def enter(self, size: int, go: Go, *, is_told: bool) -> None:
        """Stand in line."""
        density = self._known_tokens / self._known_bytes if self._known_bytes else 0.0
        coming = _Coming(size, min(size * density, self._most), is_told)
        self._outside.append((coming, go))
        self._expected += coming.expected

    def let_in(self, room: int) -> None:
        """Those for whom there is room."""
        if len(self._inside) >= room:
            self._settle()
        while self._outside and len(self._inside) < room:
            coming, go = self._outside.popleft()
            if call := go():
                self._answers[call] = False
                self._inside.append((call, coming))
            if not call or not coming.is_told:
                self._expected -= coming.expected

    def refusal(self) -> Overload | None:
        """As of `Shedder`."""
        if self._goal <= 0:
            return None
        self._settle()
        now = time.monotonic()
        if now - self._read_at > _FRESH:
            self._read(now)
        if (ahead := self._ahead()) <= self._goal:
            return None
        if self._count is not None:
            self._count[BEGUN] += 1
        return Overload(ahead, self._goal, None)

    def settle(self) -> None:
        """Take out all that were judged meanwhile, also behind one that was not."""
        inside, self._inside = self._inside, deque()
        for call, coming in inside:
            if (tokens := self._judged(call)) is None:
                self._inside.append((call, coming))
            else:
                self._leave(call, coming, tokens)

    def _settle(self) -> None:
        """Those at the head, which costs little: calls are judged about in the order in which they came."""
        while self._inside and (tokens := self._judged(self._inside[0][0])) is not None:
            self._leave(*self._inside.popleft(), tokens)

    def _judged(self, call: int) -> int | None:
        tokens = self._calls.judged(call)
        return 0 if tokens is None and self._answers[call] else tokens

    def _leave(self, call: int, coming: _Coming, tokens: int) -> None:
        """What is gone does not count any more, and is learnt from."""
        del self._answers[call]
        if not coming.is_told:
            return
        self._expected = max(0.0, self._expected - coming.expected)
        if tokens:
            self._since += tokens
            kept = 0.5 ** (coming.size / _HALF_LIFE)
            self._known_bytes = self._known_bytes * kept + coming.size
            self._known_tokens = self._known_tokens * kept + tokens
            self._most = max(self._most * _FORGOTTEN, tokens)

    def _read(self, now: float) -> None:
        self.settle()
        self._read_at, self._since = now, 0
        if (path := self._path()) != self._at:
            if self._count is not None:  # builds may come back, and a board has few slots
                Board.release(self._count)
            self._at, self._queue, self._count = path, None, None
            try:
                if path is not None:
                    board = Board(path)
                    self._queue, self._count = Queue(board, self._goal), board.claim(FENCE)
            except OSError as error:
                _log.warning("The fence refuses nothing for overload: %s cannot be had (%s).", path, error)
        self._pressure = self._queue.pressure() if self._queue else Pressure(self._goal, 0.0, 0.0)

    def _ahead(self) -> float:
        """Seconds that a new request would wait."""
        pressure = self._pressure
        if not pressure.rate:
            return 0.0
        return pressure.ahead + (self._since + _WEIGHT * self._expected) / pressure.rate
