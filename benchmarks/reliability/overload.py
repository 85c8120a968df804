"""Far more than the server can do: a minute of it, and thousands of requests at once.

    python -m benchmarks.reliability.overload .demo/repository spam

First the capacity, with a few callers. Then seven floods of ten seconds at 20 times that rate: what is done for three
seconds from two seconds after each on, over the same just before it. The machine's speed changes by itself, so each is
measured beside a twin, a server of the same model that is never flooded and runs only for that.
Then a minute of it, requests of 32 texts of mixed lengths each, as the client sends them. Then 5,000 requests of one
text at once, nine times, of which the one with the median p50 of refusals is told, and once more for the memory, since
whoever looks at that takes time from all; and for comparison 5,000 calls at once of the cheapest that Triton has
(ServerLive). The load generator shares the machine. Times are seconds; what was refused and what was taken are told
apart, and memory is that of Triton with all its steps.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.efficiency import requests
from benchmarks.paused import Paused
from benchmarks.processes import family, mebibytes
from benchmarks.reliability.burst import burst
from benchmarks.report import write
from benchmarks.serving import serving
from tritext.bench import load
from tritext.bench.lengths import Lengths
from tritext.bench.load import REFUSED, Run
from tritext.bench.served import METHOD, Sender, Served
from tritext.bench.traffic import Traffic

TIMES: Final = 20
SECONDS: Final = 60.0
AT_ONCE: Final = 5000
TEXTS: Final = 32
GOAL: Final = 2.0
PERCENTILES: Final = (50, 99, 100)
BURSTS: Final = 9
RECOVERIES: Final = 7
_SHORT: Final = 10.0  # seconds of such a flood
_WINDOW: Final = 3.0  # seconds before it, and from two seconds after it on
_PAUSE: Final = 4.0  # seconds before each burst
_DRAIN: Final = 60.0
_OK, _UNAVAILABLE = 0, 14  # gRPC's statuses
_LIVE: Final = "/inference.GRPCInferenceService/ServerLive"


class Memory:
    """The most memory that a server and its children had, looked at several times a second."""

    def __init__(self, triton: int) -> None:
        self._pid = triton
        self._over = threading.Event()
        self.most = 0.0

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.2):
            self.most = max(self.most, megabytes(self._pid))


def megabytes(pid: int) -> float:
    """Memory of `pid` and its children, what they share counted once."""
    return sum(mebibytes(each, "Pss:") for each in family(pid))


def capacity(served: Served, sent: Traffic, seconds: float = 5.0, warmup: float = 2.0) -> float:
    """Requests a second that are answered, four at a time."""

    async def main() -> Run:
        async with Sender(served, sent) as sender:
            return await load.closed_loop(sender.send, concurrency=4, seconds=seconds, warmup=warmup)

    run = load.run(main())
    return float(run.answered.sum() / run.seconds)


def flood(served: Served, sent: Traffic, rate: float, seconds: float = SECONDS) -> Run:
    """So many requests a second."""

    async def main() -> Run:
        async with Sender(served, sent) as sender:
            return await load.open_loop(
                sender.send, rate=rate, seconds=seconds, warmup=0.0, seed=0, cap=20_000, drain=_DRAIN
            )

    return load.run(main())


def recovered(served: Served, twin: Paused, sent: Traffic, rate: float) -> list[dict[str, float]]:
    """Requests a second before a flood and from two seconds after it on, of each of several, here and by the twin."""

    def twins() -> float:
        with twin.running():
            return capacity(twin.served[served.name], sent, _WINDOW, warmup=0.0)

    found = []
    for _ in track(range(RECOVERIES), "Floods", console=Console(stderr=True)):
        one = {"twin_before": twins(), "before": capacity(served, sent, _WINDOW, warmup=0.0)}
        flood(served, sent, rate, _SHORT)
        time.sleep(2.0)
        one |= {"after": capacity(served, sent, _WINDOW, warmup=0.0), "twin_after": twins()}
        found.append(one)
    return found


def figures(run: Run) -> dict[str, Any]:
    """What became of the requests; latencies count from when a request was sent."""
    took = run.ended - run.sent
    kinds = {kind: list(run.errors.values()).count(kind) for kind in sorted(set(run.errors.values()) - {REFUSED})}
    return {
        "requests": len(run.index),
        "answered": int((~run.failed).sum()),
        "refused": int(run.refused.sum()),
        "failed": kinds,
        "answered_seconds": percentiles(took[~run.failed]),
        "refused_seconds": percentiles(took[run.refused]),
        "sent_late_p99": percentiles(run.sent - run.due)["p99"],
        "generator_cores": run.cpu_seconds / run.seconds,
    }


def at_once(served: Served, payloads: Sequence[bytes], method: str = METHOD) -> dict[str, Any]:
    """What became of `AT_ONCE` calls; latencies count from the first one's first byte."""
    messages = list(islice(cycle(payloads), AT_ONCE))
    found = burst(served.address, method, messages, _DRAIN)
    ok, refused = found.status == _OK, found.status == _UNAVAILABLE
    others = Counter(found.status[~ok & ~refused].tolist())
    return {
        "requests": len(messages),
        "answered": int(ok.sum()),
        "refused": int(refused.sum()),
        "failed": {f"status {status}": count for status, count in others.items()},
        "answered_seconds": percentiles(found.seconds[ok]),
        "refused_seconds": percentiles(found.seconds[refused]),
        "sent_seconds": found.sent_seconds,
        "generator_cpu_seconds": found.cpu_seconds,
    }


def percentiles(seconds: Any) -> dict[str, float | None]:
    """Seconds that so many percent of them took at most."""
    if not len(seconds):
        return {f"p{each}": None for each in PERCENTILES}
    return {f"p{each}": float(np.percentile(seconds, each, method="inverted_cdf")) for each in PERCENTILES}


def measured(served: Served, twin: Paused, triton: int) -> dict[str, Any]:
    """Every figure."""
    many, single = requests(served, Lengths(), TEXTS), requests(served, Lengths(), 1)
    full = capacity(served, many)
    quiet = megabytes(triton)
    with Memory(triton) as memory:
        recoveries = recovered(served, twin, many, TIMES * full)
        run = flood(served, many, TIMES * full)
    after = megabytes(triton)
    answered = float(run.answered.sum() / run.seconds)
    document: dict[str, Any] = {
        "latency_goal": GOAL,
        "capacity_requests_per_second": full,
        "flood": {**figures(run), "answered_per_second_over_capacity": answered / full},
        "recoveries": recoveries,
        "megabytes": {"before": quiet, "most": memory.most, "after": after},
    }
    bursts = []
    for _ in range(BURSTS):
        time.sleep(_PAUSE)
        bursts.append(at_once(served, single.payloads))
    bursts.sort(key=lambda each: each["refused_seconds"]["p50"] or 0.0)
    time.sleep(_PAUSE)
    with Memory(triton) as memory:
        at_once(served, single.payloads)
    document["at_once"] = {**bursts[BURSTS // 2], "megabytes": memory.most}
    document["bursts"] = bursts
    document["floor"] = at_once(served, [b""], _LIVE)
    return document


def show(found: dict[str, Any]) -> None:
    """As a table."""
    table = Table(
        "", "requests", "answered", "refused", "failed", "answered p50, p99, max s", "refused p50, p99, max s"
    )
    for title, key in (
        (f"{TIMES} times the capacity", "flood"),
        ("at once", "at_once"),
        ("ServerLive at once", "floor"),
    ):
        row = found[key]
        times = (
            ", ".join(_seconds(value) for value in row[f"{what}_seconds"].values()) for what in ("answered", "refused")
        )
        failed = ", ".join(f"{count:,} {kind}" for kind, count in row["failed"].items()) or "0"
        table.add_row(title, f"{row['requests']:,}", f"{row['answered']:,}", f"{row['refused']:,}", failed, *times)
    console = Console()
    console.print(table)
    console.print(
        f"latency goal {found['latency_goal']:g} s; {TEXTS} texts a request; capacity "
        f"{found['capacity_requests_per_second']:.1f} requests/s; of it answered meanwhile "
        f"{found['flood']['answered_per_second_over_capacity']:.2f}; MB before, most, after: "
        + ", ".join(f"{value:.0f}" for value in found["megabytes"].values())
    )
    show_recoveries(found["recoveries"], console)


def show_recoveries(found: Sequence[dict[str, float]], console: Console) -> None:
    """What is done after a flood over what was done before it, and over what the twin does right after that."""
    own = _ratios([each["after"] / each["before"] for each in found])
    twins = _ratios([each["twin_after"] / each["twin_before"] for each in found])
    beside = _ratios([each["after"] / each["twin_after"] for each in found])
    console.print(f"from two seconds after a flood on ÷ before it: {own}; the twin, which had none: {twins}")
    console.print(f"from two seconds after a flood on ÷ the twin, right after that: {beside}")


def _ratios(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    options = ("--latency-goal", str(GOAL))
    with tempfile.TemporaryDirectory() as locks:
        twin = Paused(Path(repository), [name], sorted(os.sched_getaffinity(0)), locks)
        try:
            twin.wait_ready()
            with serving(Path(repository), [name], *options) as server:
                found = measured(Served(server.grpc, name, _DRAIN), twin, server.triton)
        finally:
            twin.end()
    show(found)
    write(f"overload-{name}", f"python -m benchmarks.reliability.overload REPOSITORY {name}", found)


if __name__ == "__main__":
    main(*sys.argv[1:3])
