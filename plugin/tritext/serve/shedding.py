"""Load shedding: the fence in front of gRPC refuses what the first step would only refuse after it.

The first step judges best, since it knows a request's tokens, but each refusal of its costs Triton and itself some
0.4 ms of processor: 5,000 at once keep two cores busy for a second, in which nobody hears anything. A refusal by the
fence costs a fiftieth of that. It reads the same board as that step (`tritext.admission`), and adds what it has passed
on and that step has not judged yet, at the tokens for a byte that the judged ones had.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tritext.admission import Overload, Pressure, Queue
from tritext.board import BEGUN, FENCE, Board, Slot
from tritext.calls import Calls

_WEIGHT: Final = 1.25  # of what is on its way: while many are judged, the encoder has less of the machine
_FRESH: Final = 0.002  # seconds for which what was read of the board is good
_HALF_LIFE: Final = 20_000.0  # bytes of requests, of what is known of their tokens

_log: Final = logging.getLogger("tritext")


class Shedder:
    """Judges calls before they go on. `board` gives the path of a served model's board, None where it has none."""

    def __init__(self, calls: Calls, goal: float, board: Callable[[str], Path | None]) -> None:
        self._calls, self._goal, self._board = calls, goal, board
        self._lines: dict[bytes, _Line] = {}

    def refusal(self, model: bytes) -> Overload | None:
        """Why a call that asks `model` is refused; None where it goes on. Its own size does not count."""
        line = self._lines.get(model)
        if line is None:
            name = model.decode("utf-8", "replace")
            if self._goal <= 0 or self._board(name) is None:  # whatever callers invent is not remembered
                return None
            line = self._lines[model] = _Line(self._calls, self._goal, lambda: self._board(name))
        return line.refusal()

    def passed(self, model: bytes, call: int, size: int) -> None:
        """All of `call`, a message of `size` bytes, has gone on.

        Not before: who announces a long message, and does not send it, would have everybody else refused.
        """
        if line := self._lines.get(model):
            line.passed(call, size)

    def answered(self, call: int) -> None:
        """`call` has its answer, perhaps from Triton itself."""
        if self._calls.judged(call) is None:
            self._calls.judge(call)


class _Line:
    """Who stands in line for one model."""

    def __init__(self, calls: Calls, goal: float, path: Callable[[], Path | None]) -> None:
        self._calls, self._goal, self._path = calls, goal, path
        self._at: Path | None = None  # of the board
        self._queue: Queue | None = None
        self._count: Slot | None = None  # where refusals are counted
        self._coming: deque[tuple[int, int]] = deque()  # calls that went on and were not judged, and their bytes
        self._bytes = 0  # of them
        self._known_bytes = self._known_tokens = 0.0  # of calls that were let through of late
        self._read_at = 0.0
        self._pressure = Pressure(goal, 0.0, 0.0)
        self._since = 0  # tokens let through since it was read

    def passed(self, call: int, size: int) -> None:
        """As of `Shedder`."""
        self._coming.append((call, size))
        self._bytes += size

    def refusal(self) -> Overload | None:
        """As of `Shedder`."""
        self._settle()
        now = time.monotonic()
        if now - self._read_at > _FRESH:
            self._read(now)
        if (ahead := self._ahead()) <= self._goal:
            return None
        if self._count is not None:
            self._count[BEGUN] += 1
        return Overload(ahead, self._goal, None)

    def _settle(self) -> None:
        """Take out what was judged meanwhile, about in the order in which it came."""
        coming = self._coming
        while coming and (tokens := self._calls.judged(coming[0][0])) is not None:
            _, size = coming.popleft()
            self._bytes -= size
            if tokens:
                self._since += tokens
                kept = 0.5 ** (size / _HALF_LIFE)
                self._known_bytes = self._known_bytes * kept + size
                self._known_tokens = self._known_tokens * kept + tokens

    def _read(self, now: float) -> None:
        self._read_at, self._since = now, 0
        if (path := self._path()) != self._at:
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
        density = self._known_tokens / self._known_bytes if self._known_bytes else 0.0
        return pressure.ahead + (self._since + _WEIGHT * self._bytes * density) / pressure.rate
