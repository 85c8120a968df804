"""What the fence in front of gRPC costs: the same load through it, and past it to Triton's own port, in turn.

    python -m benchmarks.fence .demo/repository spam

One text of 16 tokens a request. Processor time is that of the process of `tritext serve`, in which the fence lives;
past it, what it does otherwise is left.
"""

import statistics
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.processes import processor_seconds
from benchmarks.report import write
from benchmarks.serving import serving
from tritext.bench import load
from tritext.bench.lengths import Lengths, texts_of
from tritext.bench.load import Run
from tritext.bench.served import Sender, Served
from tritext.bench.traffic import Traffic, traffic

ROUNDS: Final = 7
CONCURRENCIES: Final = (1, 16, 64)
SECONDS, WARMUP, TIMEOUT = 5.0, 1.0, 30.0
TOKENS: Final = 16
THROUGH, PAST = "through", "past"


def inner_port(triton: int) -> int:
    """Where that process takes gRPC behind the fence."""
    arguments = Path(f"/proc/{triton}/cmdline").read_text(encoding="utf-8").split("\0")
    (port,) = (argument.partition("=")[2] for argument in arguments if argument.startswith("--grpc-port="))
    return int(port)


def requests(served: Served) -> Traffic:
    """One text each, all of one length."""
    texts = texts_of(Lengths(TOKENS, TOKENS, TOKENS).draw(256, 0, 3, TOKENS), lambda some: served.count(some, {}), 0)
    counts = served.count(texts, {})
    return traffic(served.encoder({}), texts, counts, batch_size=1, max_length=served.info.max_length)


def figures(served: Served, sent: Traffic, concurrency: int, server: int) -> dict[str, float]:
    """Of one load."""

    async def main() -> Run:
        async with Sender(served, sent) as sender:
            return await load.closed_loop(sender.send, concurrency=concurrency, seconds=SECONDS, warmup=WARMUP)

    before = processor_seconds(server)
    run = load.run(main())
    used = processor_seconds(server) - before
    if run.errors:
        raise SystemExit(f"Calls failed: {set(run.errors.values())}")
    return {
        "requests_per_second": float(run.answered.sum() / run.seconds),
        "p50_ms": statistics.median(run.latencies) * 1e3,
        "processor_us": used / len(run.index) * 1e6,
    }


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    with serving(Path(repository), [name]) as server:
        past = f"127.0.0.1:{inner_port(server.triton)}"
        ways = {THROUGH: Served(server.grpc, name, TIMEOUT), PAST: Served(past, name, TIMEOUT)}
        sent = requests(ways[THROUGH])
        rounds = [
            {
                str(callers): {way: figures(served, sent, callers, server.process.pid) for way, served in ways.items()}
                for callers in CONCURRENCIES
            }
            for _ in track(range(ROUNDS), "Measuring", console=Console(stderr=True))
        ]
    table = Table("callers", "p50, ms", "past the fence", "requests/s ÷ past", "processor of serve, µs a call", "past")
    summary = {}
    for concurrency in rounds[0]:
        these = [each[concurrency] for each in rounds]
        medians = {
            f"{way}_{figure}": statistics.median(each[way][figure] for each in these)
            for way in (THROUGH, PAST)
            for figure in these[0][way]
        }
        ratio = statistics.median(
            each[THROUGH]["requests_per_second"] / each[PAST]["requests_per_second"] for each in these
        )
        summary[concurrency] = {**medians, "throughput_ratio": ratio}
        table.add_row(
            concurrency,
            f"{medians['through_p50_ms']:.2f}",
            f"{medians['past_p50_ms']:.2f}",
            f"{ratio:.3f}",
            f"{medians['through_processor_us']:.0f}",
            f"{medians['past_processor_us']:.0f}",
        )
    Console().print(table)
    command = f"python -m benchmarks.fence REPOSITORY {name}"
    write(f"fence-{name}", command, {"tokens": TOKENS, "summary": summary, "rounds": rounds})


if __name__ == "__main__":
    main(*sys.argv[1:3])
