"""How much of what the bare encoder can do reaches clients, and what a single call costs on top of it.

    python -m benchmarks.efficiency .demo/repository spam

In each round, one after the other: the engine alone on full 16x128 batches and on one text of 16 tokens; then the
server at saturation on texts of mixed lengths, with one text a request and with eight, and with a single caller that
sends texts of 16 tokens. Medians are over rounds, ratios are formed within a round. The load generator shares the
machine; its CPU time is in the results.

Between two requests of that caller the engine rests while others work, and caches forget its weights. So it is also
measured alone at that pace, with a pause before each call as long as the rest: what is over that is the server's.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bare import Bare, built
from benchmarks.report import write
from benchmarks.serving import serving
from tritext.bench.lengths import Lengths, texts_of
from tritext.bench.measure import Closed, Conditions, Measured, measure
from tritext.bench.served import Served
from tritext.bench.traffic import Traffic, traffic
from tritext.engines.batching import Call

ROUNDS = 5
SATURATED = {"one text a request": (256, 1), "eight texts a request": (32, 8)}  # callers, texts
SINGLE = "one caller, 16 tokens"


def requests(served: Served, lengths: Lengths, batch_size: int) -> Traffic:
    """Requests of texts of those lengths."""
    drawn = lengths.draw(1024, 0, 3, served.info.max_length)
    texts = texts_of(drawn, lambda some: served.count(some, {}), 0)
    counts = served.count(texts, {})
    return traffic(served.encoder({}), texts, counts, batch_size=batch_size, max_length=served.info.max_length)


def one_round(bare: Bare, served: Served, sent: dict[str, Traffic], metrics_url: str) -> dict[str, Any]:
    """The figures of one round."""
    limit = bare.tokens_per_second(bare.full(16, 128), 2.0)
    single = bare.full(1, 16)
    alone = statistics.median(bare.seconds(single) for _ in range(200)) * 1e3
    figures: dict[str, Any] = {"bare_tokens_per_second": limit, "bare_ms": alone}
    for name, (concurrency, _) in SATURATED.items():
        found = measure(served, sent[name], Closed(concurrency), Conditions(seconds=15, warmup=3), metrics_url)
        figures[name] = _of(found) | {"efficiency": found.client.tokens_per_second / limit}
    found = measure(served, sent[SINGLE], Closed(1), Conditions(seconds=3, warmup=0.5), metrics_url)
    p50 = found.client.p50 or 0.0
    paced = statistics.median(_after_pause(bare, single, (p50 - alone) / 1e3) for _ in range(200)) * 1e3
    figures["bare_paced_ms"] = paced
    figures[SINGLE] = _of(found) | {"over_bare_ms": p50 - alone, "over_paced_ms": p50 - paced}
    return figures


def _after_pause(bare: Bare, calls: list[Call], pause: float) -> float:
    time.sleep(max(0.0, pause))
    return bare.seconds(calls)


def _of(found: Measured) -> dict[str, Any]:
    client, server = found.client, found.server
    return {
        "tokens_per_second": client.tokens_per_second,
        "p50_ms": client.p50,
        "p99_ms": client.p99,
        "failed": client.failed,
        "generator_cores": client.generator_cores,
        "generator_cpu_ms_per_request": client.generator_cpu_ms_per_request,
        "padding_waste": server.padding_waste if server else None,
        "texts_per_call": server.texts_per_call if server else None,
    }


def medians(rounds: list[dict[str, Any]], *path: str) -> dict[str, float]:
    """Median, least and greatest of the figure at `path` over `rounds`."""
    values = []
    for figures in rounds:
        value: Any = figures
        for key in path:
            value = value[key]
        values.append(float(value))
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    bare = Bare(built(Path(repository), name))
    with serving(Path(repository), [name]) as server:
        served = Served(server.grpc, name, 60.0)
        sent = {load: requests(served, Lengths(), size) for load, (_, size) in SATURATED.items()}
        sent[SINGLE] = requests(served, Lengths.parse("16"), 1)
        bare.tokens_per_second(bare.full(16, 128), 2.0)  # warm
        rounds = [
            one_round(bare, served, sent, server.metrics)
            for _ in track(range(ROUNDS), "Measuring", console=Console(stderr=True))
        ]
    table = Table("figure", "median", "min", "max", title=f"{name}, {bare.precision}, {ROUNDS} rounds")
    summary: dict[str, Any] = {}

    def row(title: str, form: str, *path: str) -> None:
        summary[title] = medians(rounds, *path)
        table.add_row(title, *(format(value, form) for value in summary[title].values()))

    row("bare engine, 16x128, tokens/s", ",.0f", "bare_tokens_per_second")
    for load in SATURATED:
        row(f"served, {load}, tokens/s", ",.0f", load, "tokens_per_second")
        row(f"share of the bare engine, {load}", ".3f", load, "efficiency")
        row(f"load generator, {load}, cores", ".2f", load, "generator_cores")
    row("bare engine, 1x16, ms", ".2f", "bare_ms")
    row("bare engine at the caller's pace, 1x16, ms", ".2f", "bare_paced_ms")
    row("served, one caller, 16 tokens, p50 ms", ".2f", SINGLE, "p50_ms")
    row("over the bare engine, ms", ".2f", SINGLE, "over_bare_ms")
    row("over the bare engine at that pace, ms", ".2f", SINGLE, "over_paced_ms")
    Console().print(table)
    command = f"python -m benchmarks.efficiency REPOSITORY {name}"
    write(
        f"efficiency-{name}",
        command,
        {"engine": bare.precision, "layout": dict(bare.variant.layout), "summary": summary, "rounds": rounds},
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
