"""How to group texts of mixed lengths into engine calls: real tokens per second of each way.

    python -m benchmarks.grouping .demo/repository spam

Lengths are log-normal with median 24, 95th percentile 120 and maximum 256 tokens. All ways are timed in turn,
round by round, so that a drift of the machine's speed meets all of them; medians are over rounds.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.report import write
from tritext import contract
from tritext.engines import engine_named
from tritext.engines.base import Runner
from tritext.engines.batching import Rows, micro_batches
from tritext.repository import committed
from tritext.settings import EngineSettings

TEXTS, ROUNDS = 128, 7
Groups = Callable[[NDArray[np.int64]], Iterator[NDArray[np.intp]]]


def lengths(count: int, seed: int = 0) -> NDArray[np.int64]:
    """Token counts of `count` texts."""
    sigma = np.log(120 / 24) / 1.6449  # the 95th percentile of a standard normal
    drawn = np.random.default_rng(seed).lognormal(np.log(24), sigma, count)
    return np.clip(drawn.round(), 3, 256).astype(np.int64)


def as_they_come(size: int) -> Groups:
    """Groups of `size` in order of arrival, each padded to its longest."""

    def groups(sizes: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
        return (np.arange(start, min(start + size, len(sizes))) for start in range(0, len(sizes), size))

    return groups


def budget(tokens: int) -> Groups:
    """Sorted by length, at most `tokens` a call, padding included."""
    return lambda sizes: micro_batches(sizes, tokens)


WAYS: dict[str, Groups] = {
    "one text a call": as_they_come(1),
    "16 as they come, padded": as_they_come(16),
    "64 as they come, padded": as_they_come(64),
    **{f"sorted, {tokens} tokens a call": budget(tokens) for tokens in (128, 256, 512, 1024, 2048)},
}


def load(repository: Path, name: str) -> tuple[Runner, EngineSettings]:
    """The encoder of a committed model, without Triton."""
    model = committed(repository, name)
    if model is None:
        raise SystemExit(f"{repository} has no model {name}; `make demo` builds one.")
    folder = model.step("encoder")
    settings = EngineSettings.read(folder)
    return engine_named(settings.engine).runner(folder / settings.artefact, settings), settings


def texts(sizes: NDArray[np.int64], inputs: tuple[str, ...]) -> Rows:
    """Rows of random token ids."""
    random = np.random.default_rng(1)
    requests = [
        {
            contract.INPUT_IDS.name: random.integers(1000, 20000, (1, size), dtype=np.int32),
            contract.ATTENTION_MASK.name: np.ones((1, size), dtype=np.int32),
            contract.TOKEN_TYPE_IDS.name: np.zeros((1, size), dtype=np.int32),
        }
        for size in sizes
    ]
    return Rows.of(requests, inputs)


def seconds(runner: Runner, rows: Rows, groups: Groups) -> float:
    """The time of one pass over all rows."""
    start = time.perf_counter()
    for group in groups(rows.lengths):
        runner.run(rows.padded(group, 0))
    return time.perf_counter() - start


def measure(runner: Runner, settings: EngineSettings) -> dict[str, list[float]]:
    """Tokens/s of every way and of full 16x128 batches, [ROUNDS] each."""
    rows = texts(lengths(TEXTS), settings.inputs)
    full = texts(np.full(64, 128), settings.inputs)
    speeds: dict[str, list[float]] = {way: [] for way in (*WAYS, "full 16x128 batches")}
    for number in track(range(ROUNDS + 1), "Measuring", console=Console(stderr=True)):
        timed = {way: rows.lengths.sum() / seconds(runner, rows, groups) for way, groups in WAYS.items()}
        timed["full 16x128 batches"] = full.lengths.sum() / seconds(runner, full, as_they_come(16))
        for way, speed in timed.items():
            if number > 0:  # the first round warms up
                speeds[way].append(float(speed))
    return speeds


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    runner, settings = load(Path(repository), name)
    speeds = measure(runner, settings)
    ceiling = statistics.median(speeds["full 16x128 batches"])
    table = Table("grouping", "tokens/s", "of full 16x128", title=f"{name}, {settings.engine} {settings.precision}")
    figures: dict[str, Any] = {}
    for way, values in speeds.items():
        median = statistics.median(values)
        figures[way] = {"median": round(median), "min": round(min(values)), "max": round(max(values))}
        table.add_row(way, f"{median:,.0f}", f"{median / ceiling:.2f}")
    Console().print(table)
    command = f"python -m benchmarks.grouping REPOSITORY {name}"
    write(f"grouping-{name}-{settings.precision}", command, {"unit": "real tokens per second", "ways": figures})


if __name__ == "__main__":
    main(*sys.argv[1:3])
