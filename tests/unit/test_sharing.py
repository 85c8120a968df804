"""The schedule of arrivals that the benchmark of sharing sends: its rates, its spikes, and that it can be repeated."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from test_bench_load import at_once

from benchmarks.sharing import SCHEDULE, SPIKES, arrivals
from tritext.bench.load import Run, scheduled_loop


def inside(times: "np.ndarray[tuple[int], np.dtype[np.float64]]", spikes: tuple[tuple[float, float], ...]) -> int:
    return sum(int(((times >= begin) & (times < end)).sum()) for begin, end in spikes)


@pytest.mark.parametrize("spikes", SPIKES)
def test_rates_are_those_that_were_asked_for(spikes: tuple[tuple[float, float], ...]) -> None:
    times = arrivals(1000.0, 10_000.0, spikes, 0)
    width = sum(end - begin for begin, end in spikes)
    assert (np.diff(times) >= 0).all()
    assert times[0] >= 0
    assert times[-1] < SCHEDULE
    assert inside(times, spikes) == pytest.approx(10_000 * width, rel=0.05)
    assert len(times) - inside(times, spikes) == pytest.approx(1000 * (SCHEDULE - width), rel=0.05)
    quiet = np.diff(times[times < spikes[0][0]])
    assert quiet.std() == pytest.approx(quiet.mean(), rel=0.15)  # as a Poisson process has it


def test_arrivals_repeat_with_their_seed() -> None:
    assert (arrivals(10.0, 100.0, SPIKES[0], 3) == arrivals(10.0, 100.0, SPIKES[0], 3)).all()
    assert (arrivals(10.0, 100.0, SPIKES[0], 3)[:10] != arrivals(10.0, 100.0, SPIKES[0], 4)[:10]).all()


def test_spikes_of_the_two_models_do_not_coincide() -> None:
    times = sorted(pair for spikes in SPIKES for pair in spikes)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
    assert times[-1][1] < SCHEDULE


def test_what_a_spike_leaves_behind_delays_what_comes_next() -> None:
    """A server for one request at a time, ten milliseconds each: a spike of 150 a second for 2 s leaves 100 waiting."""

    async def main() -> Run:
        busy = asyncio.Lock()

        async def send(_: int) -> None:
            async with busy:
                await asyncio.sleep(0.01)

        due = arrivals(15.0, 150.0, SPIKES[0], 0)
        return await scheduled_loop(send, due=due, seconds=SCHEDULE, warmup=0.0, cap=10_000)

    run = at_once(main())
    assert run.due == pytest.approx(arrivals(15.0, 150.0, SPIKES[0], 0))
    end = SPIKES[0][0][1]
    assert run.latencies[(run.due > end - 0.2) & (run.due < end)].min() > 0.5
    after = (run.due > end) & (run.due < end + 0.5)
    assert after.any()
    assert run.latencies[after].min() > 0.1
    assert run.latencies[(run.due > 4.5) & (run.due < 6.5)].max() < 0.2
