"""What became of every request of a run."""

import asyncio
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from time import process_time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]

Send = Callable[[int], Awaitable[None]]
"""Sends request number i (0, 1, 2, …; warm-up included) and awaits its answer; raises where that is an error."""

Look = Callable[[], Awaitable[Any]]
"""Reads something, such as the server's counters, when the measured window begins and again when it ends."""

UNANSWERED: Final = "unanswered"  # no answer within DRAIN seconds after the last request was sent
REFUSED: Final = "refused"  # by the server, for now: it has too much to do
NOT_SENT: Final = "not sent"  # too many were outstanding


class Failed(Exception):
    """A request that failed; the `kind` is what failures are counted by (else it is the exception's class)."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Run:
    """Every request of a run [R], in the order of their ends, and the window that counts.

    ``index`` is the number that `Send` got; ``due`` when the request should have been sent, ``sent`` when it was,
    ``ended`` when its answer or its failure came; ``errors`` has the kind of each failure by the request's index.
    ``cpu_seconds`` is what this process used in the window, ``looks`` what `Look` gave at its begin and end.
    """

    index: NDArray[np.int64]
    due: Times
    sent: Times
    ended: Times
    errors: dict[int, str]
    begin: float
    end: float
    cpu_seconds: float
    looks: tuple[Any, Any] = (None, None)

    @property
    def seconds(self) -> float:
        """The window's length."""
        return self.end - self.begin

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Which requests failed [R]."""
        return np.isin(self.index, list(self.errors))

    @property
    def refused(self) -> NDArray[np.bool_]:
        """Which requests the server refused for now [R]; they are among those that failed."""
        return np.isin(self.index, [index for index, kind in self.errors.items() if kind == REFUSED])

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Which requests were due in the window [R]: those that latencies are about."""
        return (self.due >= self.begin) & (self.due <= self.end)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which requests got their answer in the window [R]: those that throughput is about."""
        return (self.ended >= self.begin) & (self.ended <= self.end) & ~self.failed

    @property
    def latencies(self) -> Times:
        """Seconds from due to answered of each measured request, infinite where it failed; without those refused."""
        return np.where(self.failed, np.inf, self.ended - self.due)[self.measured & ~self.refused]

    @property
    def refusals(self) -> Times:
        """Seconds from due to refused of each measured request that was."""
        return (self.ended - self.due)[self.measured & self.refused]


@dataclass
class Log:
    """What happened, in columns: at ten thousand requests a second, objects would keep the collector busy."""

    warmup: float
    seconds: float
    index: "array[int]" = field(default_factory=lambda: array("q"))
    due: "array[float]" = field(default_factory=lambda: array("d"))
    sent: "array[float]" = field(default_factory=lambda: array("d"))
    ended: "array[float]" = field(default_factory=lambda: array("d"))
    errors: dict[int, str] = field(default_factory=dict)
    started: int = 0
    cpu: float = 0.0
    looks: tuple[Any, Any] = (None, None)

    def __post_init__(self) -> None:
        self.now = asyncio.get_running_loop().time
        self.start = self.now()
        self.begin = self.start + self.warmup
        self.end = self.begin + self.seconds

    def next_index(self) -> int:
        """The number of the request that is sent next."""
        index = self.started
        self.started += 1
        return index

    def left(self) -> float:
        """Seconds until the window ends."""
        return max(0.0, self.end - self.now())

    async def until(self, when: float) -> None:
        """Wait for that time."""
        if (wait := when - self.now()) > 0:
            await asyncio.sleep(wait)

    async def record(self, send: Send, index: int, due: float) -> bool:
        """Send, await, note; whether an answer came."""
        sent, error = self.now(), None
        try:
            await send(index)
        except asyncio.CancelledError:
            self.add(index, due, sent, UNANSWERED)
            raise
        except Exception as failure:  # noqa: BLE001 - whatever it is, it is counted by its kind
            error = failure.kind if isinstance(failure, Failed) else type(failure).__name__
        self.add(index, due, sent, error)
        return error is None

    def add(self, index: int, due: float, sent: float, error: str | None) -> None:
        """Note a request that has just ended; `error` is the kind of its failure."""
        self.index.append(index)
        self.due.append(due)
        self.sent.append(sent)
        self.ended.append(self.now())
        if error is not None:
            self.errors[index] = error

    async def open_window(self, look: Look | None) -> None:
        """From here on it counts."""
        self.looks = (await look() if look else None, None)
        self.cpu = process_time()

    async def close_window(self, look: Look | None) -> None:
        """Up to here it counted."""
        self.cpu = process_time() - self.cpu
        self.looks = (self.looks[0], await look() if look else None)

    def run(self) -> Run:
        """What was noted."""
        return Run(
            np.array(self.index, np.int64),
            np.array(self.due),
            np.array(self.sent),
            np.array(self.ended),
            self.errors,
            self.begin,
            self.end,
            self.cpu,
            self.looks,
        )
