"""Whether more callers cost throughput, and how fast their wait grows.

    python -m benchmarks.growth .demo/repository spam

In each round 16, 64 and 512 callers, one after the other, each with one text of mixed length a request. Medians are
over rounds, ratios are formed within a round. With as many requests under way as there are callers, a caller waits for
callers ÷ throughput in the mean: that is the queue, and what p99 is compared with.
"""

import sys
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.efficiency import medians, requests
from benchmarks.report import write
from benchmarks.serving import serving
from tritext.bench.lengths import Lengths
from tritext.bench.measure import Closed, Conditions, measure
from tritext.bench.served import Served
from tritext.bench.traffic import Traffic

ROUNDS: Final = 5
CALLERS: Final = (16, 64, 512)


def one_round(served: Served, sent: Traffic, metrics_url: str) -> dict[str, Any]:
    """Throughput and latency of each number of callers, and what becomes of both with their number."""
    figures: dict[str, Any] = {}
    for callers in CALLERS:
        found = measure(served, sent, Closed(callers), Conditions(seconds=8, warmup=2), metrics_url).client
        queue_ms = callers / found.requests_per_second * 1e3
        figures[str(callers)] = {
            "tokens_per_second": found.tokens_per_second,
            "p50_ms": found.p50,
            "p99_ms": found.p99,
            "p99_over_queue": (found.p99 or 0.0) / queue_ms,
            "failed": found.failed,
        }
    rates = [each["tokens_per_second"] for each in figures.values()]
    middle = (max(rates) + min(rates)) / 2
    return {**figures, "off_the_middle": (max(rates) - middle) / middle}


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    with serving(Path(repository), [name]) as server:
        served = Served(server.grpc, name, 60.0)
        sent = requests(served, Lengths(), 1)
        one_round(served, sent, server.metrics)  # warms up
        rounds = [
            one_round(served, sent, server.metrics)
            for _ in track(range(ROUNDS), "Measuring", console=Console(stderr=True))
        ]
    columns = {"tokens_per_second": ",.0f", "p50_ms": ".1f", "p99_ms": ".1f", "p99_over_queue": ".2f"}
    table = Table("callers", *columns, title=f"{name}, medians of {ROUNDS} rounds")
    summary: dict[str, Any] = {}
    for callers in map(str, CALLERS):
        summary[callers] = {column: medians(rounds, callers, column) for column in columns}
        table.add_row(callers, *(format(summary[callers][c]["median"], form) for c, form in columns.items()))
    summary["off_the_middle"] = medians(rounds, "off_the_middle")
    Console().print(table)
    Console().print(f"throughput is within ±{summary['off_the_middle']['median']:.1%} of its middle")
    command = f"python -m benchmarks.growth REPOSITORY {name}"
    write(f"growth-{name}", command, {"summary": summary, "rounds": rounds})


if __name__ == "__main__":
    main(*sys.argv[1:3])
