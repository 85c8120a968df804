"""Two models in one server against one server for each, pinned to its half of the cores.

    python -m benchmarks.sharing .demo/repository spam pii

In each round: each model alone on the whole machine, pinned, and in the shared server while the other is idle; both
at once; and spikes that do not coincide, one schedule of arrivals sent to every set-up. There latency counts from the
time a request was due, and what a spike leaves behind meets what comes next. All of this is too short for calls to be
cut short as greed (`benchmarks.reliability.isolation` is not). The order of the set-ups changes by round. One process
makes all the load; it runs on the same cores. A server that is not being measured is stopped (SIGSTOP). Medians are
over rounds, ratios are formed within a round. Both at once have some seconds more to warm up, in which their encoders
make what they compute with on half of the cores. "without turns" is the shared server with TRITEXT_TURNS=off.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.paused import Paused
from benchmarks.report import write
from tritext.bench import load
from tritext.bench.lengths import Lengths, texts_of
from tritext.bench.served import Sender, Served
from tritext.bench.summary import summary
from tritext.bench.traffic import Traffic, traffic

ROUNDS: Final = 5
CONCURRENCY: Final = 32
WARMUP, SATURATED = 0.5, 2.0  # seconds of each measurement at saturation
WARMUP_OF_BOTH: Final = 3.0
BASE, SPIKE = 0.15, 1.5  # of what a model can do in its pinned server
SPIKES: Final = ((0.5, 2.5), (6.5, 8.5)), ((3.5, 5.5), (9.5, 11.5))  # seconds, of each model
SCHEDULE: Final = 12.0  # seconds
SHARED, WITHOUT, PINNED = "shared", "shared, without turns", "pinned"
SETUPS: Final = SHARED, WITHOUT, PINNED

Runs = Mapping[str, load.Run]


class Setup:
    """Where each model is served, and what is sent to it there."""

    def __init__(self, servers: Sequence[Paused], sent: Mapping[str, Traffic]) -> None:
        self._servers, self._sent = servers, sent
        self._served = {name: served for server in servers for name, served in server.served.items()}

    def saturate(self, *names: str) -> dict[str, dict[str, Any]]:
        """Keep the models of these names busy; what each one did."""
        closed = {
            "concurrency": CONCURRENCY,
            "seconds": SATURATED,
            "warmup": WARMUP if len(names) == 1 else WARMUP_OF_BOTH,
        }
        runs = self._run(dict.fromkeys(names, (load.closed_loop, closed)))
        return {name: self._figures(name, run) for name, run in runs.items()}

    def spikes(self, due: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
        """Send to each model at its times; latencies of each, and of all together."""
        common = {"seconds": SCHEDULE, "warmup": 0.0, "cap": 100_000, "drain": 60.0}
        runs = self._run({name: (load.scheduled_loop, {"due": times, **common}) for name, times in due.items()})
        models = {name: self._figures(name, run) for name, run in runs.items()}
        latencies = np.concatenate([run.latencies for run in runs.values()])
        return {f"p{p}_ms": 1e3 * _percentile(latencies, p) for p in (50, 90, 99)} | {"models": models}

    def _run(self, loops: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> Runs:
        async def one(name: str, loop: Any, options: Mapping[str, Any]) -> load.Run:
            async with Sender(self._served[name], self._sent[name]) as sender:
                run: load.Run = await loop(sender.send, **options)
            self._served[name].check(self._sent[name], sender.kept)
            return run

        async def all_at_once() -> list[load.Run]:
            running: list[Coroutine[Any, Any, load.Run]] = [one(name, *loop) for name, loop in loops.items()]
            return await asyncio.gather(*running)

        with contextlib.ExitStack() as stack:
            for server in self._servers:
                if loops.keys() & server.served.keys():
                    stack.enter_context(server.running())
            return dict(zip(loops, load.run(all_at_once()), strict=True))

    def _figures(self, name: str, run: load.Run) -> dict[str, Any]:
        figures = asdict(summary(run, self._sent[name].texts, self._sent[name].tokens))
        if not figures["requests_per_second"]:
            raise SystemExit(f"{name} at {self._served[name].address} answered nothing: {figures['failed']}.")
        return figures


def _percentile(latencies: NDArray[np.float64], percentile: int) -> float:
    """Infinite where so many failed."""
    return float(np.percentile(latencies, percentile, method="inverted_cdf"))


def arrivals(base: float, spike: float, spikes: Sequence[tuple[float, float]], seed: int) -> NDArray[np.float64]:
    """Seconds at which requests come: a Poisson process of `base` a second, and of `spike` a second within `spikes`.

    It is a process of rate 1 whose time is stretched ("inversion": Devroye, Non-Uniform Random Variate Generation,
    1986, chapter VI.1.3).
    """
    edges = np.array([0.0, *(edge for pair in spikes for edge in pair), SCHEDULE])
    rates = np.where(np.arange(len(edges) - 1) % 2, spike, base)
    expected = np.concatenate([[0.0], np.cumsum(rates * np.diff(edges))])
    random = np.random.default_rng(seed)
    count = int(expected[-1] + 10 * np.sqrt(expected[-1]) + 10)
    process = np.cumsum(random.exponential(size=count))
    return np.interp(process[process < expected[-1]], expected, edges)


def requests(served: Served) -> Traffic:
    """One text a request, of mixed lengths."""
    texts = texts_of(Lengths().draw(1024, 0, 3, served.info.max_length), lambda some: served.count(some, {}), 0)
    counts = served.count(texts, {})
    return traffic(served.encoder({}), texts, counts, batch_size=1, max_length=served.info.max_length)


def rotated(setups: Sequence[str], by: int) -> Sequence[str]:
    """The same in another order: what the machine's speed does within a round shall not always meet the same one."""
    start = by % len(setups)
    return [*setups[start:], *setups[:start]]


def one_round(names: Sequence[str], setups: Mapping[str, Setup], seed: int) -> dict[str, Any]:
    """The figures of one round."""
    served = rotated(SETUPS, seed)
    busy: dict[str, Any] = {
        name: {setup: setups[setup].saturate(name)[name] for setup in rotated((name, *served), seed)} for name in names
    }
    both = {setup: setups[setup].saturate(*names) for setup in served}
    capacity = {name: busy[name][PINNED]["requests_per_second"] for name in names}
    due = {
        name: arrivals(BASE * capacity[name], SPIKE * capacity[name], SPIKES[place], 2 * seed + place)
        for place, name in enumerate(names)
    }
    spiking = {setup: setups[setup].spikes(due) for setup in served}
    return {"one busy": busy, "both busy": both, "capacity": capacity, "spikes": spiking}


def ratios(names: Sequence[str], figures: Mapping[str, Any]) -> dict[str, float]:
    """What is compared, of one round."""
    found: dict[str, float] = {}
    alone = {name: figures["one busy"][name][name]["tokens_per_second"] for name in names}
    for name in names:
        speeds = {setup: some["tokens_per_second"] for setup, some in figures["one busy"][name].items()}
        found[f"{name} alone, whole machine, tokens/s"] = alone[name]
        found[f"{name} alone, pinned, requests/s"] = figures["capacity"][name]
        found[f"{name} busy, the other idle: shared ÷ alone"] = speeds[SHARED] / alone[name]
        found[f"{name} busy, the other idle: without turns ÷ alone"] = speeds[WITHOUT] / alone[name]
        found[f"{name} busy, the other idle: shared ÷ pinned"] = speeds[SHARED] / speeds[PINNED]
    for setup in SETUPS:
        both = figures["both busy"][setup]
        together = sum(some["tokens_per_second"] for some in both.values())
        found[f"both busy, {setup}: together ÷ the better alone"] = together / max(alone.values())
        for name in names:
            found[f"both busy, {setup}: {name} ÷ its own alone"] = both[name]["tokens_per_second"] / alone[name]
    spikes = figures["spikes"]
    for setup in SETUPS:
        some = spikes[setup]
        found |= {f"spikes, {setup}: p{p} ms": some[f"p{p}_ms"] for p in (50, 99)}
        found[f"spikes, {setup}: failed"] = sum(sum(each["failed"].values()) for each in some["models"].values())
    for setup in (SHARED, WITHOUT):
        found[f"spikes, p99: {setup} ÷ pinned"] = spikes[setup]["p99_ms"] / spikes[PINNED]["p99_ms"]
    return found


@contextlib.contextmanager
def serving(repository: Path, names: Sequence[str]) -> Iterator[dict[str, Setup]]:
    """Every set-up: the shared ones, the pinned one, and under its name each model alone."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    if half == 0 or not shutil.which("taskset"):
        raise SystemExit("This compares halves of the machine: it needs two cores, and taskset (of util-linux).")
    # As Ctrl-C, which the event loop ends cleanly on: otherwise stopped servers would be left.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with contextlib.ExitStack() as stack:

        def start(models: Sequence[str], some: Sequence[int], turns: str = "") -> Paused:
            # Locks of its own: one that is stopped within a call keeps its turn.
            turns = turns or stack.enter_context(tempfile.TemporaryDirectory())
            server = Paused(repository, models, some, turns)
            stack.callback(server.end)
            server.wait_ready()
            return server

        servers = {SHARED: [start(names, cores)], WITHOUT: [start(names, cores, "off")]}
        servers |= {name: [start([name], cores)] for name in names}
        servers[PINNED] = [start([names[0]], cores[:half]), start([names[1]], cores[half : 2 * half])]
        with servers[SHARED][0].running():
            sent = {name: requests(served) for name, served in servers[SHARED][0].served.items()}
        yield {setup: Setup(some, sent) for setup, some in servers.items()}


def main(repository: str, *names: str, rounds: int = ROUNDS) -> None:
    """Measure, print a table, keep the figures."""
    with serving(Path(repository), names) as setups:
        found = [
            one_round(names, setups, seed) for seed in track(range(rounds), "Measuring", console=Console(stderr=True))
        ]
    compared = [ratios(names, figures) for figures in found]
    table = Table("figure", "median", "min", "max", title=f"{' and '.join(names)}, {rounds} rounds")
    report: dict[str, Any] = {}
    for title in compared[0]:
        values = [each[title] for each in compared]
        report[title] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        table.add_row(title, *(format(value, ",.0f" if value >= 100 else ".2f") for value in report[title].values()))
    Console().print(table)
    about = {"base": BASE, "spike": SPIKE, "spikes": SPIKES, "seconds": SCHEDULE, "concurrency": CONCURRENCY}
    command = f"python -m benchmarks.sharing REPOSITORY {' '.join(names)}"
    write(f"sharing-{'-'.join(names)}", command, {"schedule": about, "summary": report, "rounds": found})


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit("usage: python -m benchmarks.sharing REPOSITORY MODEL_A MODEL_B")
    try:
        main(*sys.argv[1:4])
    except KeyboardInterrupt:
        raise SystemExit(130) from None
