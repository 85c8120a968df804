"""Two ways to bring texts of many lengths to a TensorRT plan, compared where there is no GPU: packed rows, or buckets.

    python -m benchmarks.plans .demo/checkpoints/spam

The real ensembles in the real Triton under the same load, with a stand-in for the TensorRT backend that runs the plan's
graph on the processor within the plan's profiles (tests/standin). What carries over to a GPU is how many texts share a
call and how many of the computed positions are padding; the tokens a second are the processor's.
"""

import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, get_args

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.efficiency import requests
from benchmarks.report import write
from tritext.bench.lengths import Lengths
from tritext.bench.measure import Closed, Conditions, measure
from tritext.bench.served import Served
from tritext.build import BuildOptions, build
from tritext.build.options import Batching
from tritext.build.source import locate
from tritext.repository import BuiltModel
from tritext.serve import Server
from tritext.serve.ensemble import plan_folder

ROUNDS: Final = 5
CONCURRENCY: Final = 64
CONDITIONS: Final = Conditions(seconds=5, warmup=1)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one round: `padding` is the share of computed positions that hold no token."""

    tokens_per_second: float
    texts_per_call: float
    padding: float
    p99_ms: float


@contextmanager
def serving(checkpoint: str, batching: Batching, folder: Path) -> Iterator[tuple[BuiltModel, Server, Path]]:
    """The ensemble, and the file that gets a line for each call of its plan."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import planning  # the stand-in is the tests'

    options = BuildOptions("plans", folder / "repository", engine="tensorrt", precision="fp32", batching=batching)
    model = build(locate(checkpoint), options).model
    planning.prepared([model])
    calls = folder / "calls.jsonl"
    calls.touch()
    os.environ["TRITEXT_TEST_CALLS"] = str(calls)
    with planning.served([model], folder) as server:
        yield model, server, calls


def one_round(server: Server, model: BuiltModel, calls: Path) -> Figures:
    """Traffic of one text a request for some seconds."""
    served = Served(server.grpc_url, model.name, 60.0)
    sent = requests(served, Lengths(), 1)
    before = len(calls.read_text().splitlines())
    found = measure(served, sent, Closed(CONCURRENCY), CONDITIONS, server.metrics_url)
    shapes = [line["shapes"]["input_ids"] for line in map(json.loads, calls.read_text().splitlines()[before:])]
    seconds = CONDITIONS.seconds + CONDITIONS.warmup  # the calls of both
    texts = found.client.requests_per_second * seconds
    computed = sum(int(np.prod(shape)) for shape in shapes)
    tokens = found.client.tokens_per_second * seconds
    return Figures(
        found.client.tokens_per_second, texts / len(shapes), 1 - tokens / computed, found.client.p99 or float("inf")
    )


def main(checkpoint: str) -> None:
    """Measure, print a table, keep the figures."""
    found: dict[str, list[Figures]] = {}
    for batching in get_args(Batching):
        with TemporaryDirectory() as folder, serving(checkpoint, batching, Path(folder)) as (model, server, calls):
            assert plan_folder(model)  # noqa: S101
            one_round(server, model, calls)  # warms up
            rounds = track(range(ROUNDS), f"Measuring {batching}", console=Console(stderr=True))
            found[batching] = [one_round(server, model, calls) for _ in rounds]
    table = Table("figure", *found, title=f"{Path(checkpoint).name}, medians of {ROUNDS} rounds, on the processor")
    summary = {name: medians(rounds) for name, rounds in found.items()}
    for figure in asdict(next(iter(found.values()))[0]):
        table.add_row(figure, *(f"{summary[name][figure]:,.4g}" for name in found))
    Console().print(table)
    rounds_of = {name: [asdict(each) for each in rounds] for name, rounds in found.items()}
    write("plans", f"python -m benchmarks.plans {checkpoint}", {"summary": summary, "rounds": rounds_of})


def medians(rounds: Sequence[Figures]) -> dict[str, Any]:
    """Of each figure."""
    return {name: statistics.median(asdict(each)[name] for each in rounds) for name in asdict(rounds[0])}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m benchmarks.plans CHECKPOINT")
    main(sys.argv[1])
