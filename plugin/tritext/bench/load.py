"""Load on anything that can be awaited: a closed loop of so many at a time, or an open loop of arrivals at their times.

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
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final

from tritext.bench.clock import run
from tritext.bench.record import NOT_SENT, REFUSED, UNANSWERED, Failed, Log, Look, Run, Send

__all__ = [
    "NOT_SENT",
    "REFUSED",
    "UNANSWERED",
    "Failed",
    "Look",
    "Run",
    "Send",
    "Tick",
    "closed_loop",
    "open_loop",
    "run",
    "scheduled_loop",
]

Tick = Callable[[float, int, int], None]
"""Told several times a second: the seconds since the start, and how many were answered and how many failed."""

DRAIN: Final = 30.0  # seconds
TICK: Final = 0.25
# What fails at once would be asked again at once, some ten thousand times a second.
ERROR_PAUSE: Final = 0.01


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
    log = Log(warmup, seconds)
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

    The gaps between them are exponential (a Poisson process), the same for the same `seed`; for the rest see
    `scheduled_loop`.
    """
    return await scheduled_loop(
        send,
        due=_poisson(rate, seed),
        seconds=seconds,
        warmup=warmup,
        cap=cap,
        requests=requests,
        drain=drain,
        look=look,
        tick=tick,
    )


async def scheduled_loop(
    send: Send,
    *,
    due: Iterable[float],
    seconds: float,
    warmup: float,
    cap: int,
    requests: int | None = None,
    drain: float = DRAIN,
    look: Look | None = None,
    tick: Tick | None = None,
) -> Run:
    """Send a request at each of the times `due`, in seconds since the start and ascending, answered or not.

    Those of the first `warmup` seconds do not count, those after `warmup` and `seconds` are not sent. A request that
    finds `cap` outstanding is not sent and counts as failed. Those still outstanding at the end get `drain` seconds.
    With `requests`, the window ends when so many were due.
    """
    log = Log(warmup, seconds)
    outstanding: set[asyncio.Task[bool]] = set()

    async def arrivals() -> None:
        """Send until the window ends, or until there were enough requests, which ends it."""
        count = 0
        for offset in due:
            when = log.start + offset
            count += when >= log.begin
            if requests is not None and count > requests:
                log.end = max(log.now(), log.begin)
            if when >= log.end:
                return
            await log.until(when)
            index = log.next_index()
            if len(outstanding) >= cap:
                log.add(index, when, when, NOT_SENT)
                continue
            task = asyncio.create_task(log.record(send, index, when))
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


def _poisson(rate: float, seed: int) -> Iterator[float]:
    """The times of a Poisson process, without end."""
    gaps, when = random.Random(seed), 0.0  # noqa: S311 - no secret
    while True:
        when += gaps.expovariate(rate)
        yield when


@contextlib.asynccontextmanager
async def _ticking(log: Log, tick: Tick | None) -> AsyncIterator[None]:
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
