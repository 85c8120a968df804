"""What the torch engine makes of a GPU: latency, throughput, and its share of what the GPU can multiply at all.

    python -m benchmarks.gpu .demo/checkpoints/spam                          # on a GPU, in bf16
    python -m benchmarks.gpu .demo/checkpoints/spam --device cpu --rounds 3  # the same on a processor, in small

Nothing is built but the engine, until the last figure, for which the model is built whole and served. Each round
times everything once, so that a drift of the machine's speed meets all figures; medians are over rounds.

Operations of the encoder, for T texts of l tokens each and S = Σ l, with hidden size H, intermediate size F:

    layers x (2 S (4 H² + 2 H F) + 4 H Σ l²)

which are the products with the six weight matrices of a layer and the two of attention; embeddings, norms and the head
are left out, and so is padding: an engine that computes it has a smaller share. The ceiling is a product of two square
matrices in the same precision.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.efficiency import requests
from benchmarks.report import write
from benchmarks.serving import serving
from tritext import contract
from tritext.bench.lengths import Lengths
from tritext.bench.measure import Closed, Conditions, measure
from tritext.bench.served import Served
from tritext.build import BuildOptions, build
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.export import input_names
from tritext.build.source import locate
from tritext.build.weights import load_model
from tritext.engines import engine_named
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS, Graph, Ingredients, Runner, RunnerOptions
from tritext.engines.batching import Call, Texts
from tritext.engines.packing import Packed
from tritext.errors import ServeError
from tritext.serve.installation import find
from tritext.tasks import task_named

ENGINE, NAME = engine_named("torch"), "gpu_benchmark"
MIXED: Final = Lengths()


@dataclass(frozen=True)
class Sizes:
    """How much is enough on a device."""

    texts: int  # of mixed lengths
    tokens_a_call: tuple[int, ...]
    square: int  # matrices of the ceiling
    concurrency: int
    batch_size: int


SIZES: Final = {
    "cuda": Sizes(8192, (512, 2048, 8192, 32768), 4096, 64, 64),
    "cpu": Sizes(64, (512,), 1024, 16, 8),
}


@dataclass(frozen=True)
class Bare:
    """The engine by itself: `inputs` are the tokenizer's tensors that it takes, `per_text` as for a layout."""

    runner: Runner
    inputs: tuple[str, ...]
    per_text: bool
    vocabulary: int
    config: Any
    streams: int

    def calls(self, lengths: NDArray[np.int64], layout: Packed) -> list[Call]:
        """Calls for texts of `lengths`, with random tokens."""
        ids = np.random.default_rng(1).integers(5, self.vocabulary, int(lengths.sum()), dtype=np.int32)
        values = {name: ids if name == contract.INPUT_IDS.name else np.zeros_like(ids) for name in self.inputs}
        return list(layout.calls(Texts(values, lengths), 0, per_text=self.per_text))

    def seconds(self, calls: Sequence[Call]) -> float:
        """To run `calls`, as many at once as there are streams."""
        begun = time.perf_counter()
        if self.streams == 1 or len(calls) == 1:
            for call in calls:
                self.runner.run(call.arrays)
        else:
            with ThreadPoolExecutor(self.streams) as pool:
                list(pool.map(lambda call: self.runner.run(call.arrays), calls))
        return time.perf_counter() - begun


def operations(config: Any, lengths: NDArray[np.int64]) -> float:
    """Of the encoder, by the formula above."""
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim  # DistilBERT's name
    a_layer = 2 * lengths.sum() * (4 * hidden**2 + 2 * hidden * inner) + 4 * hidden * (lengths**2).sum()
    return float(config.num_hidden_layers * a_layer)


def bare(checkpoint: str, folder: Path, options: RunnerOptions) -> Bare:
    """Build the engine of `checkpoint` in `folder` and load it."""
    facts, tokenizer = inspect(locate(checkpoint), Overrides())
    model = load_model(facts)
    names = [name for name in input_names(model, tokenizer) if name != contract.ATTENTION_MASK.name]
    per_text = task_named(facts.task).per == "text"
    inputs = (*names, POSITION_IDS, SEGMENT_IDS, *([FIRST_TOKENS] if per_text else []))
    artefact = ENGINE.build(Ingredients(Graph(Path(), inputs, packed=True), model), options.precision, folder)
    runner = ENGINE.runner(folder / artefact.file, options)
    return Bare(runner, tuple(names), per_text, facts.vocabulary, model.config, options.streams)


def ceiling(device: str, precision: str, size: int) -> Callable[[], float]:
    """Measures operations a second of a product of two square matrices."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    times = 20 if device == "cuda" else 3

    def once() -> float:
        torch.matmul(left, right)
        _wait(device)
        begun = time.perf_counter()
        for _ in range(times):
            torch.matmul(left, right)
        _wait(device)
        return float(times * 2 * size**3 / (time.perf_counter() - begun))

    return once


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def one_round(engine: Bare, sizes: Sizes, limit: Callable[[], float]) -> dict[str, float]:
    """Every figure of the bare engine once."""
    found = {"ceiling, TFLOP/s": limit() / 1e12}
    single = engine.calls(np.array([16]), Packed(16, 1))
    found["1x16, ms"] = statistics.median(engine.seconds(single) for _ in range(20)) * 1e3
    full, mixed = np.full(16, 128), MIXED.draw(sizes.texts, 0, 3, 256)
    ways = {"16x128": (full, Packed(128, 16))}
    ways |= {f"mixed, {tokens} tokens a call": (mixed, Packed(256, tokens // 256)) for tokens in sizes.tokens_a_call}
    for name, (lengths, layout) in ways.items():
        seconds = engine.seconds(engine.calls(lengths, layout))
        found[f"{name}, tokens/s"] = float(lengths.sum()) / seconds
        found[f"{name}, share of the ceiling"] = operations(engine.config, lengths) / seconds / limit()
    return found


def served(checkpoint: str, folder: Path, precision: str, sizes: Sizes, rounds: int) -> list[float]:
    """Tokens a second of the whole ensemble over gRPC on the mixed lengths; the load shares the processor."""
    options: Any = {"engine": "torch", "precision": precision}
    build(locate(checkpoint), BuildOptions(NAME, folder, **options))
    with serving(folder) as server:
        model = Served(server.grpc, NAME, 60.0)
        sent = requests(model, MIXED, sizes.batch_size)
        conditions = Conditions(seconds=5, warmup=2)
        runs = [measure(model, sent, Closed(sizes.concurrency), conditions, None) for _ in range(rounds)]
    return [run.client.tokens_per_second for run in runs]


def summary(rounds: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Median, least and greatest of each figure."""
    figures = {}
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        figures[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return figures


def against_server(
    figures: dict[str, dict[str, float]], checkpoint: str, folder: Path, precision: str, sizes: Sizes, rounds: int
) -> None:
    """Add the ensemble's figures to those of the bare engine, of which the best call size counts."""
    try:
        find()
    except ServeError as error:
        Console(stderr=True).print(f"No server, so without the ensemble: {error}")
        return
    values = served(checkpoint, folder, precision, sizes, rounds)
    best = max(f["median"] for name, f in figures.items() if name.startswith("mixed") and name.endswith("tokens/s"))
    shares = [value / best for value in values]
    for name, found in (("ensemble, mixed, tokens/s", values), ("ensemble over the bare encoder", shares)):
        figures[name] = {"median": statistics.median(found), "min": min(found), "max": max(found)}


def arguments() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="The torch engine on a GPU.")
    parser.add_argument("checkpoint", help="a directory that save_pretrained wrote, or a hub id")
    parser.add_argument("--device", choices=sorted(SIZES), default="cuda")
    parser.add_argument("--precision", choices=ENGINE.precisions, default="bf16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--streams", type=int, default=1, help="calls at once")
    parser.add_argument("--no-server", action="store_true", help="the bare engine alone")
    return parser.parse_args()


def main() -> None:
    """Measure, print a table; on a GPU, keep the figures."""
    asked = arguments()
    if asked.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no CUDA device. --device cpu runs the same on the processor.")
    if lack := ENGINE.lacks(asked.precision):
        raise SystemExit(f"{asked.precision} cannot be measured here: {lack}.")
    sizes = SIZES[asked.device]
    options = RunnerOptions(asked.precision, streams=asked.streams, engine={"device": asked.device})
    with TemporaryDirectory() as folder:
        engine = bare(asked.checkpoint, Path(folder), options)
        limit = ceiling(asked.device, asked.precision, sizes.square)
        one_round(engine, sizes, limit)  # warms up
        rounds = [
            one_round(engine, sizes, limit)
            for _ in track(range(asked.rounds), "Measuring", console=Console(stderr=True))
        ]
        figures = summary(rounds)
        if not asked.no_server:
            against_server(
                figures, asked.checkpoint, Path(folder, "repository"), asked.precision, sizes, min(3, asked.rounds)
            )
    device = torch.cuda.get_device_name() if asked.device == "cuda" else "processor"
    name = Path(asked.checkpoint).name
    table = Table("figure", "median", "min", "max", title=f"{name}, torch {asked.precision}, {device}")
    for key, value in figures.items():
        table.add_row(key, *(f"{value[each]:,.4g}" for each in ("median", "min", "max")))
    Console().print(table)
    if asked.device == "cuda":
        command = f"python -m benchmarks.gpu CHECKPOINT --precision {asked.precision} --streams {asked.streams}"
        write(f"gpu-{name}-{asked.precision}", command, {"device": device, "figures": figures})


if __name__ == "__main__":
    main()
