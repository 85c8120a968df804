"""The two loops on a virtual clock: what would take seconds takes none, and every figure is exact."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from tritext.bench import load
from tritext.bench.load import Failed, Run, Send, closed_loop, open_loop

T = TypeVar("T")


class Clock(asyncio.SelectorEventLoop):
    """Where everybody waits for a time, it is that time."""

    def __init__(self) -> None:
        self.passed = 0.0
        super().__init__(Skipping(self))

    def time(self) -> float:
        return self.passed


class Skipping(selectors.SelectSelector):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for ever"
        self.clock.passed += max(0.0, timeout)
        return super().select(0)


def at_once(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


async def ten_ms(_: int) -> None:
    await asyncio.sleep(0.01)


async def never(_: int) -> None:
    await asyncio.sleep(1e9)


def closed(send: Send, **options: Any) -> Run:
    return at_once(closed_loop(send, **{"concurrency": 4, "seconds": 2.0, "warmup": 0.5, **options}))


def opened(send: Send, **options: Any) -> Run:
    common = {"rate": 100.0, "seconds": 10.0, "warmup": 0.5, "seed": 1, "cap": 10_000}
    return at_once(open_loop(send, **{**common, **options}))


class Counting:
    """Answers after ten milliseconds; knows how many waited at once."""

    def __init__(self) -> None:
        self.outstanding = self.most = 0
        self.indices: list[int] = []

    async def send(self, index: int) -> None:
        self.indices.append(index)
        self.outstanding += 1
        self.most = max(self.most, self.outstanding)
        await asyncio.sleep(0.01)
        self.outstanding -= 1


class Stalling:
    """Answers in a millisecond, but nothing between 4 and 5 s."""

    async def send(self, _: int) -> None:
        await asyncio.sleep(5.0 - now() if 4.0 <= now() < 5.0 else 0.001)


def test_a_closed_loop_keeps_so_many_requests_outstanding_and_no_more() -> None:
    server = Counting()
    run = closed(server.send)
    assert server.most == 4
    assert server.indices == list(range(len(run.index)))
    assert run.latencies == pytest.approx(0.01)
    assert run.answered.sum() / run.seconds == pytest.approx(400, rel=0.01)
    assert run.errors == {}


def test_what_happens_while_warming_up_does_not_count() -> None:
    async def cold(_: int) -> None:
        await asyncio.sleep(0.2 if now() < 0.4 else 0.01)

    run = closed(cold)
    assert (run.ended - run.due).max() == pytest.approx(0.2)
    assert run.latencies.max() == pytest.approx(0.01)
    assert (run.begin, run.seconds) == (pytest.approx(0.5), pytest.approx(2.0))


def test_a_closed_loop_of_so_many_requests_ends_with_the_last_answer() -> None:
    run = closed(ten_ms, requests=20)
    assert run.measured.sum() == 20
    assert run.end == pytest.approx(run.ended.max())
    assert run.seconds < 0.1


def test_an_open_loop_sends_at_its_times_whatever_is_outstanding() -> None:
    run = opened(never, drain=1.0)
    assert run.sent == pytest.approx(run.due)
    assert len(run.latencies) == pytest.approx(1000, rel=0.1)
    assert np.isinf(run.latencies).all()
    assert set(run.errors.values()) == {load.UNANSWERED}
    assert run.ended.max() == pytest.approx(0.5 + 10 + 1)  # and no later


def test_arrivals_are_poisson_and_repeat_with_their_seed() -> None:
    due = opened(ten_ms, seconds=100.0).due
    gaps = np.diff(due)
    assert gaps.mean() == pytest.approx(0.01, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as an exponential distribution has it
    assert (opened(ten_ms, seconds=100.0).due == due).all()
    assert (opened(ten_ms, seconds=100.0, seed=2).due[:100] != due[:100]).all()


def test_a_stall_delays_all_that_came_meanwhile() -> None:
    run = opened(Stalling().send)
    due = run.due[run.measured]
    stalled = (due > 4.0) & (due < 5.0)
    assert 0.08 < stalled.mean() < 0.12
    # Each waited until the stall was over: coordinated omission would show one slow request here, and 99 % fast.
    assert run.latencies[stalled] == pytest.approx(5.0 - due[stalled], abs=1e-6)
    assert np.percentile(run.latencies, 99) > 0.8
    assert (run.latencies[~stalled] < 0.0011).all()
    assert (closed(Stalling().send, concurrency=1, seconds=10.0).latencies > 0.01).sum() == 1


def test_what_finds_too_many_outstanding_is_not_sent_and_has_failed() -> None:
    server = Counting()
    run = opened(server.send, rate=1000.0, seconds=1.0, cap=3)
    assert server.most == 3
    assert set(run.errors.values()) == {load.NOT_SENT}
    assert np.isinf(run.latencies).sum() == run.measured.sum() - run.failed[~run.failed & run.measured].size
    assert len(run.index) == len(server.indices) + len(run.errors)


def test_an_open_loop_of_so_many_requests() -> None:
    run = opened(ten_ms, requests=50)
    assert run.measured.sum() == 50
    assert run.answered.sum() >= 49
    assert run.seconds == pytest.approx(0.5, rel=0.5)


def test_failures_are_counted_by_kind_and_never_end() -> None:
    async def send(index: int) -> None:
        await asyncio.sleep(0.01)
        if index % 10 == 3:
            raise Failed("UNAVAILABLE")
        if index % 10 == 7:
            raise ValueError

    run = closed(send)
    assert run.errors[3] == "UNAVAILABLE"
    assert run.errors[7] == "ValueError"
    assert np.isinf(run.latencies).mean() == pytest.approx(0.2, abs=0.01)
    assert not (run.answered & run.failed).any()


def test_what_fails_at_once_is_not_asked_without_end() -> None:
    async def refuse(_: int) -> None:
        raise ConnectionRefusedError

    run = closed(refuse, concurrency=2, seconds=1.0, warmup=0.0)
    assert len(run.index) <= 2 * 1.0 / load.ERROR_PAUSE + 2


def test_answers_that_come_after_the_window_count_in_latency_and_not_in_throughput() -> None:
    async def slow(_: int) -> None:
        await asyncio.sleep(1.5)

    run = closed(slow, concurrency=1, seconds=2.0, warmup=0.0)
    assert run.latencies == pytest.approx([1.5, 1.5])
    assert run.answered.sum() == 1


def test_a_closed_loop_gives_up_what_is_not_answered() -> None:
    run = closed(never, drain=3.0)
    assert set(run.errors.values()) == {load.UNANSWERED}
    assert run.ended.max() == pytest.approx(0.5 + 2 + 3)


def test_it_looks_when_the_window_begins_and_when_it_ends() -> None:
    async def look() -> float:
        return now()

    assert closed(ten_ms, look=look).looks == (pytest.approx(0.5), pytest.approx(2.5))
    assert opened(ten_ms, look=look).looks == (pytest.approx(0.5), pytest.approx(10.5))


def test_it_tells_how_far_it_is() -> None:
    told: list[tuple[float, int, int]] = []
    closed(ten_ms, tick=lambda *progress: told.append(progress))
    assert [seconds for seconds, _, _ in told] == pytest.approx(np.arange(len(told)) * load.TICK)
    assert len(told) == pytest.approx(2.5 / load.TICK, abs=1)
    assert told[-1][1] == pytest.approx(400 * told[-1][0], rel=0.02)


def test_an_ordinary_clock_gives_what_the_coroutine_gives() -> None:
    run = load.run(closed_loop(ten_ms, concurrency=2, seconds=0.1, warmup=0.0))
    assert run.latencies.min() >= 0.0099
    assert run.answered.sum() > 0
    assert run.cpu_seconds > 0
