"""Load on anything that can be awaited: a closed loop of so many at a time, or an open loop of random arrivals.

In a **closed loop** each of `concurrency` callers sends its next request when it has its answer: the throughput of a
server that is always busy. In an **open loop** requests come at their own times, as users do, whether or not earlier
ones are answered: the latency at a given traffic. There latency counts from the time a request was *due*, so a server
that stalls delays everything that came meanwhile, and shows it. (A generator that waits with the server leaves these
out and reports the stall once: "coordinated omission", Gil Tene, How NOT to Measure Latency, 2013.)

Times are seconds on the event loop's clock. Run these with `run`, whose timers are exact to some 50 µs.
"""

import asyncio
import contextlib
import random
import select
import selectors
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from time import process_time
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Send = Callable[[int], Awaitable[None]]
"""Sends request number i (0, 1, 2, …; warm-up included) and awaits its answer; raises where that is an error."""

Look = Callable[[], Awaitable[Any]]
"""Reads something, such as the server's counters, when the measured window begins and again when it ends."""

Tick = Callable[[float, int, int], None]
"""Told several times a second: the seconds since the start, and how many were answered and how many failed."""

UNANSWERED: Final = "unanswered"  # no answer within DRAIN seconds after the last request was sent
NOT_SENT: Final = "not sent"  # too many were outstanding
DRAIN: Final = 30.0
TICK: Final = 0.25
# What fails at once would be asked again at once, some ten thousand times a second.
ERROR_PAUSE: Final = 0.01

T = TypeVar("T")
Times = NDArray[np.float64]


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
    def measured(self) -> NDArray[np.bool_]:
        """Which requests were due in the window [R]: those that latencies are about."""
        return (self.due >= self.begin) & (self.due <= self.end)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Which requests got their answer in the window [R]: those that throughput is about."""
        return (self.ended >= self.begin) & (self.ended <= self.end) & ~self.failed

    @property
    def latencies(self) -> Times:
        """Seconds from due to answered of each measured request; infinite for those that failed."""
        return np.where(self.failed, np.inf, self.ended - self.due)[self.measured]


async def closed_loop(
    send: Send,
    *,
    concurrency: int,
    seconds: float,
    warmup: float,
    requests: int | None = None,
    drain: float = DRAIN,
    look: Look | None = None,
    tick: Tick | None = None,
) -> Run:
    """Keep `concurrency` requests outstanding for `warmup` seconds that do not count and `seconds` that do.

    With `requests`, no more than so many are sent in the window, and it ends with the last answer.
    """
    log = _Log(warmup, seconds)
    left = iter(range(requests)) if requests is not None else None

    async def caller() -> None:
        while (now := log.now()) < log.end:
            if now >= log.begin and left is not None and next(left, None) is None:
                break
            if not await log.record(send, log.next_index(), now):
                await asyncio.sleep(ERROR_PAUSE)

    callers = [asyncio.create_task(caller()) for _ in range(concurrency)]
    async with _ticking(log, tick):
        await log.until(log.begin)
        await log.open_window(look)
        _, busy = await asyncio.wait(callers, timeout=log.left())
        if not busy:
            log.end = max(log.now(), log.begin)
        await log.close_window(look)
        await _drain(callers, drain)
    return log.run()


async def open_loop(
    send: Send,
    *,
    rate: float,
    seconds: float,
    warmup: float,
    seed: int,
    cap: int,
    requests: int | None = None,
    drain: float = DRAIN,
    look: Look | None = None,
    tick: Tick | None = None,
) -> Run:
    """Send `rate` requests a second for `warmup` seconds that do not count and `seconds` that do.

    The gaps between them are exponential (a Poisson process), the same for the same `seed`. A request that finds
    `cap` outstanding is not sent and counts as failed. Those still outstanding at the end get `drain` seconds.
    With `requests`, the window ends when so many were due.
    """
    log = _Log(warmup, seconds)
    outstanding: set[asyncio.Task[bool]] = set()

    async def arrivals() -> None:
        """Send until the window ends, or until there were enough requests, which ends it."""
        gaps, due, count = random.Random(seed), log.start, 0  # noqa: S311 - no secret
        while True:
            due += gaps.expovariate(rate)
            count += due >= log.begin
            if requests is not None and count > requests:
                log.end = max(log.now(), log.begin)
            if due >= log.end:
                return
            await log.until(due)
            index = log.next_index()
            if len(outstanding) >= cap:
                log.add(index, due, due, NOT_SENT)
                continue
            task = asyncio.create_task(log.record(send, index, due))
            outstanding.add(task)
            task.add_done_callback(outstanding.discard)

    sender = asyncio.create_task(arrivals())
    async with _ticking(log, tick):
        await log.until(log.begin)
        await log.open_window(look)
        await asyncio.wait([sender], timeout=log.left())
        await log.until(log.end)
        await log.close_window(look)
        await _drain([sender], drain)  # it may be behind its times, where the machine has no time for it
        await _drain([*outstanding], drain)
    return log.run()


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` with exact timers: those of epoll come up to a millisecond late, which would count as latency."""
    with asyncio.Runner(loop_factory=_exact_loop) as runner:
        return runner.run(main)


@dataclass
class _Log:
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
        index = self.started
        self.started += 1
        return index

    def left(self) -> float:
        return max(0.0, self.end - self.now())

    async def until(self, when: float) -> None:
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
        self.index.append(index)
        self.due.append(due)
        self.sent.append(sent)
        self.ended.append(self.now())
        if error is not None:
            self.errors[index] = error

    async def open_window(self, look: Look | None) -> None:
        self.looks = (await look() if look else None, None)
        self.cpu = process_time()

    async def close_window(self, look: Look | None) -> None:
        self.cpu = process_time() - self.cpu
        self.looks = (self.looks[0], await look() if look else None)

    def run(self) -> Run:
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


@contextlib.asynccontextmanager
async def _ticking(log: _Log, tick: Tick | None) -> AsyncIterator[None]:
    async def report(tick: Tick) -> None:
        while True:
            tick(log.now() - log.start, len(log.index) - len(log.errors), len(log.errors))
            await asyncio.sleep(TICK)

    task = asyncio.create_task(report(tick)) if tick else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


async def _drain(tasks: list[asyncio.Task[Any]], seconds: float) -> None:
    """Give what is outstanding so long, then give it up."""
    if tasks:
        _, pending = await asyncio.wait(tasks, timeout=seconds)
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _exact_loop() -> asyncio.AbstractEventLoop:
    if hasattr(selectors, "EpollSelector"):
        return asyncio.SelectorEventLoop(_ExactSelector())
    return asyncio.new_event_loop()


if hasattr(selectors, "EpollSelector"):

    class _ExactSelector(selectors.EpollSelector):
        """Waits with select(2) on the epoll descriptor itself: microseconds, where epoll rounds up to milliseconds."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)
