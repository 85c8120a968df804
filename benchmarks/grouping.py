"""How to lay texts of mixed lengths out in engine calls: real tokens per second of each way.

    python -m benchmarks.grouping .demo/repository spam

Lengths are log-normal with median 24, 95th percentile 120 and maximum 256 tokens. All ways are timed in turn,
round by round, so that a drift of the machine's speed meets all of them; medians are over rounds.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bare import Bare, built
from benchmarks.report import write
from tritext.bench.lengths import Lengths
from tritext.engines.batching import Call
from tritext.engines.packing import Packed

TEXTS, ROUNDS = 128, 7
CEILING = "full 16x128 batches"


def as_they_come(bare: Bare, lengths: np.ndarray[Any, np.dtype[np.int64]], size: int) -> list[Call]:
    """Rows of one text each, `size` a call in order of arrival, padded to the longest."""
    calls = []
    for start in range(0, len(lengths), size):
        some = lengths[start : start + size]
        calls += bare.calls(np.full(len(some), some.max()), Packed(int(some.max()), len(some)))
    return calls


def by_length(bare: Bare, lengths: np.ndarray[Any, np.dtype[np.int64]], budget: int) -> list[Call]:
    """Rows of one text each, sorted by length, at most `budget` tokens a call, padding included."""
    calls, order, start = [], np.sort(lengths), 0
    for end in range(1, len(order) + 1):
        if end == len(order) or int(order[end]) * (end - start + 1) > budget:
            some = order[start:end]
            calls += bare.calls(np.full(len(some), some.max()), Packed(int(some.max()), len(some)))
            start = end
    return calls


def ways(bare: Bare) -> dict[str, list[Call]]:
    """Every way's calls. A padded text costs what a text of the padded length does."""
    lengths = Lengths().draw(TEXTS, 0, 3, 256)
    found = {"one text a call": as_they_come(bare, lengths, 1)}
    found |= {f"{size} as they come, padded": as_they_come(bare, lengths, size) for size in (16, 64)}
    found |= {f"sorted, {budget} tokens a call": by_length(bare, lengths, budget) for budget in (256, 512, 1024)}
    for length in (64, 128, 192, 256, 512):
        for rows in (1, 2, 4, 8):
            if 128 <= length * rows <= 1024:
                found[f"packed, {rows} rows of {length}"] = bare.calls(lengths, Packed(length, rows))
    return found | {CEILING: bare.full(16, 128)}


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    bare = Bare(built(Path(repository), name))
    if not bare.is_packed:
        raise SystemExit(f"{name} has a graph that takes one text a row; there is nothing to compare.")
    calls = ways(bare)
    real = int(Lengths().draw(TEXTS, 0, 3, 256).sum())
    speeds: dict[str, list[float]] = {way: [] for way in calls}
    for number in track(range(ROUNDS + 1), "Measuring", console=Console(stderr=True)):
        for way, some in calls.items():
            tokens = 2048 if way == CEILING else real
            speed = tokens / bare.seconds(some)
            if number > 0:  # the first round warms up
                speeds[way].append(speed)
    ceiling = statistics.median(speeds[CEILING])
    table = Table("way", "tokens/s", "of full 16x128", title=f"{name}, {bare.precision}")
    figures: dict[str, Any] = {}
    for way, values in speeds.items():
        median = statistics.median(values)
        figures[way] = {
            "median": round(median),
            "min": round(min(values)),
            "max": round(max(values)),
            "share": round(median / ceiling, 3),
        }
        table.add_row(way, f"{median:,.0f}", f"{median / ceiling:.2f}")
    Console().print(table)
    command = f"python -m benchmarks.grouping REPOSITORY {name}"
    write(f"grouping-{name}", command, {"engine": bare.precision, "unit": "real tokens per second", "ways": figures})


if __name__ == "__main__":
    main(*sys.argv[1:3])
