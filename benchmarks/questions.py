"""How much of what the bare encoder can do reaches who asks questions about windows of 384 tokens.

    python -m benchmarks.questions [REPOSITORY NAME]

In each round: the engine alone on windows of 384 tokens without padding, in the calls that suit it best, and the server
at saturation on questions whose contexts fill such a window. What is compared is real tokens a second; the load
generator shares the machine. Without a repository MiniLM, all six layers, is built with a random head, in the engine
and precision that `tritext build` chooses.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.answers import checkpoint_for
from benchmarks.bare import Bare, built
from benchmarks.efficiency import medians
from benchmarks.report import write
from benchmarks.serving import serving
from tritext.bench.lengths import texts_of
from tritext.bench.measure import Closed, Conditions, measure
from tritext.bench.served import Served
from tritext.bench.traffic import Traffic, traffic
from tritext.build import BuildOptions, build
from tritext.build.source import locate

WINDOW: Final = 384
ROUNDS: Final = 5
ROWS: Final = (1, 2, 4, 8)  # windows in a call of the bare engine
SATURATED: Final = {"one question a request": (32, 1), "eight questions a request": (6, 8)}
QUESTION: Final = "Who has the right to be recognised as a person?"
_LEAST: Final = 0.97  # of a window, so that no context makes two


def requests(served: Served, batch_size: int) -> Traffic:
    """Questions about contexts that make one window each, full or nearly so."""
    lengths = np.full(64, int(WINDOW * (1 + _LEAST) / 2) - served.count([(QUESTION, "a")], {})[0])
    texts = texts_of(lengths, lambda some: [n - 2 for n in served.count([(text, "a") for text in some], {})], 0)
    items = [(QUESTION, text) for text in texts]
    counts = served.count(items, {})
    if not all(WINDOW * _LEAST <= count <= WINDOW for count in counts):
        raise SystemExit(f"Windows have {min(counts)} to {max(counts)} tokens.")
    return traffic(
        served.encoder({}), items, counts, batch_size=batch_size, max_length=WINDOW
    )  # fmt: skip


def one_round(bare: Bare, served: Served, sent: dict[str, Traffic], metrics_url: str) -> dict[str, Any]:
    """The figures of one round."""
    limits = {rows: bare.tokens_per_second(bare.full(rows, WINDOW), 1.5) for rows in ROWS}
    limit = max(limits.values())
    figures: dict[str, Any] = {"bare_tokens_per_second": limit, "bare_by_rows": limits}
    for name, (concurrency, _) in SATURATED.items():
        found = measure(served, sent[name], Closed(concurrency), Conditions(seconds=20, warmup=3), metrics_url)
        speed = found.client.tokens_per_second
        figures[name] = {"tokens_per_second": speed, "efficiency": speed / limit, "failed": found.client.failed}
    return figures


def run(repository: Path, name: str) -> None:
    """Measure, and write results/questions.json."""
    bare = Bare(built(repository, name))
    with serving(repository, [name]) as server:
        served = Served(server.grpc, name, 60.0)
        sent = {load: requests(served, size) for load, (_, size) in SATURATED.items()}
        bare.tokens_per_second(bare.full(4, WINDOW), 1.5)  # warm
        rounds = [one_round(bare, served, sent, server.metrics) for _ in range(ROUNDS)]
    summary = {"bare engine, tokens/s": medians(rounds, "bare_tokens_per_second")}
    for load in SATURATED:
        summary[f"served, {load}, tokens/s"] = medians(rounds, load, "tokens_per_second")
        summary[f"share of the bare engine, {load}"] = medians(rounds, load, "efficiency")
    for title, figures in summary.items():
        print(f"{title:60}", "  ".join(f"{key} {value:,.3f}" for key, value in figures.items()))
    about = {"engine": bare.precision, "layout": dict(bare.variant.layout), "window": WINDOW}
    write("questions", "python -m benchmarks.questions", {**about, "summary": summary, "rounds": rounds})


def main(arguments: list[str]) -> None:
    """With a built model, or with one that is built for this."""
    if arguments:
        run(Path(arguments[0]), arguments[1])
        return
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = checkpoint_for("question-answering", Path(scratch) / "checkpoint", num_hidden_layers=6)
        build(locate(str(checkpoint)), BuildOptions("questions", Path(scratch) / "repository"))
        run(Path(scratch) / "repository", "questions")


if __name__ == "__main__":
    main(sys.argv[1:])
