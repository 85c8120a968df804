"""What a flood on one model does to another: its p99 at a modest rate, over that of the same traffic when all is quiet.

    python -m benchmarks.reliability.isolation .demo/repository spam pii

Quiet, flooded, quiet again, in one server. The flood comes from a process of its own: 20 times what the first model can
do, 32 texts of mixed lengths a request. The other model is asked one text of mixed length at a time, at a fifth of what
it can do alone. The factor is the p99 under the flood over the mean of the two quiet ones; both models share the cores
call by call, so a factor of about two is what a fair share costs. Generators share the machine.
"""

import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.efficiency import requests
from benchmarks.reliability.overload import GOAL, TEXTS, TIMES, capacity, figures, flood
from benchmarks.report import write
from benchmarks.serving import Running, serving
from tritext.bench import load
from tritext.bench.lengths import Lengths
from tritext.bench.load import Run
from tritext.bench.served import Sender, Served
from tritext.bench.traffic import Traffic

SHARE: Final = 0.2  # of its capacity, at which the other model is asked
SECONDS: Final = 20.0
_BEFORE: Final = 5.0  # seconds of the flood that come first
_TIMEOUT: Final = 60.0


def modest(served: Served, sent: Traffic, rate: float) -> Run:
    """So many requests a second, at random times."""

    async def main() -> Run:
        async with Sender(served, sent) as sender:
            return await load.open_loop(sender.send, rate=rate, seconds=SECONDS, warmup=1.0, seed=1, cap=5_000)

    return load.run(main())


def flooding(address: str, name: str, rate: float, result: Connection) -> None:
    """The flood, in a process of its own; what became of it goes to `result`."""
    served = Served(address, name, _TIMEOUT)
    sent = requests(served, Lengths(), TEXTS)
    result.send(None)
    result.send(figures(flood(served, sent, rate, seconds=_BEFORE + SECONDS + 2.0)))


def flooded(flood_on: Served, rate: float, served: Served, sent: Traffic, modest_rate: float) -> tuple[Run, Any]:
    """The modest traffic while the flood lasts, and what became of the flood."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=flooding, args=(flood_on.address, flood_on.name, rate, there))
    process.start()
    try:
        here.recv()
        time.sleep(_BEFORE)
        run = modest(served, sent, modest_rate)
        return run, here.recv()
    finally:
        process.join(timeout=_TIMEOUT)
        process.kill()


def measured(server: Running, flood_name: str, other_name: str) -> dict[str, Any]:
    """Every figure."""
    first, other = (Served(server.grpc, name, _TIMEOUT) for name in (flood_name, other_name))
    many, single = requests(first, Lengths(), TEXTS), requests(other, Lengths(), 1)
    full, alone = capacity(first, many), capacity(other, single)
    rate = SHARE * alone
    before = figures(modest(other, single, rate))
    under, flood_figures = flooded(first, TIMES * full, other, single, rate)
    time.sleep(2.0)
    after = figures(modest(other, single, rate))
    found = figures(under)
    quiet = [each["answered_seconds"]["p99"] for each in (before, after)]
    p99 = found["answered_seconds"]["p99"]
    return {
        "latency_goal": GOAL,
        "capacity_requests_per_second": {flood_name: full, other_name: alone},
        "rate": rate,
        "quiet": before,
        "flooded": found,
        "quiet_again": after,
        "flood": flood_figures,
        "p99_factor": p99 / statistics.mean(quiet) if p99 and all(quiet) else None,
    }


def show(found: dict[str, Any]) -> None:
    """As a table."""
    table = Table("", "requests", "answered", "refused", "failed", "answered p50, p99, max ms")
    for key in ("quiet", "flooded", "quiet_again", "flood"):
        row = found[key]
        times = ", ".join("-" if value is None else f"{value * 1e3:.1f}" for value in row["answered_seconds"].values())
        counts = (f"{row[what]:,}" for what in ("requests", "answered", "refused"))
        table.add_row(key.replace("_", " "), *counts, f"{sum(row['failed'].values()):,}", times)
    console = Console()
    console.print(table)
    factor = found["p99_factor"]
    console.print(f"p99 under the flood over the quiet one: {'-' if factor is None else f'{factor:.2f}'}")


def main(repository: str, flood_name: str, other_name: str) -> None:
    """Measure, print a table, keep the figures."""
    models = [flood_name, other_name]
    with serving(Path(repository), models, "--latency-goal", str(GOAL)) as server:
        found = measured(server, flood_name, other_name)
    show(found)
    command = f"python -m benchmarks.reliability.isolation REPOSITORY {flood_name} {other_name}"
    write(f"isolation-{flood_name}-{other_name}", command, found)


if __name__ == "__main__":
    main(*sys.argv[1:4])
