"""A file through `tritext classify` against what the same server does at saturation, and the client's memory.

    python -m benchmarks.files .demo/repository spam [--lines 100000]

In each round, one after the other: the server saturated by the load generator, as in `benchmarks.efficiency` with
eight texts a request; and the command on a fifth of the lines. At the end the command on all of them. Lengths are
log-normal with median 24, 95th percentile 120 and maximum 256 tokens. The command's time is that of its process, from
start to end. Medians are over rounds, ratios are formed within a round.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.bare import built
from benchmarks.report import write
from benchmarks.serving import serving
from tritext.bench.lengths import Lengths, texts_of
from tritext.bench.measure import Closed, Conditions, measure
from tritext.bench.served import Served
from tritext.bench.traffic import Traffic, traffic

ROUNDS: Final = 5
CONCURRENCY, BATCH_SIZE = 16, 8  # of the load generator
POLL: Final = 0.02  # seconds
COMMAND: Final = (sys.executable, "-c", "import tritext.cli; tritext.cli.main()", "classify")


@dataclass(frozen=True, slots=True)
class Classified:
    """One run of the command. Seconds are those of its process; megabytes are its resident memory at its peak."""

    lines: int
    seconds: float
    tokens_per_second: float
    cpu_seconds: float
    peak_megabytes: float


def classify(served: Served, file: Path, lines: int) -> Classified:
    """Run the command on `file`, whose number of `lines` its output must have; what it took."""
    out = file.with_suffix(".out")
    command = [*COMMAND, served.name, "--file", str(file), "--output-format", "jsonl", "--out", str(out)]
    begun = time.monotonic()
    process = subprocess.Popen([*command, "--url", served.address])
    peak = 0.0
    while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
        peak = _peak_megabytes(process.pid) or peak
        time.sleep(POLL)
    seconds = time.monotonic() - begun
    _, status, used = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"tritext classify ended with {process.returncode}.")
    with out.open(encoding="utf-8") as results:
        counts = [min(json.loads(line)["token_count"], served.info.max_length) for line in results]
    if len(counts) != lines:
        raise SystemExit(f"tritext classify wrote {len(counts)} lines for {lines}.")
    return Classified(lines, seconds, sum(counts) / seconds, _cpu(used), peak)


def _peak_megabytes(pid: int) -> float | None:
    """So far; None where it has ended. What wait4 tells includes the memory of the process that it was forked from."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), None)
    return int(line.split()[1]) / 1024 if line else None


def _cpu(used: resource.struct_rusage) -> float:
    return used.ru_utime + used.ru_stime


def saturated(served: Served, sent: Traffic) -> float:
    """Real tokens per second."""
    found = measure(served, sent, Closed(CONCURRENCY), Conditions(seconds=5, warmup=1), None)
    return found.client.tokens_per_second


def written(folder: Path, texts: list[str], lines: int) -> Path:
    """A file of so many lines, `texts` again and again."""
    file = folder / f"{lines}.txt"
    file.write_text("".join(f"{text}\n" for text in islice(cycle(texts), lines)), encoding="utf-8")
    return file


def rounds_on(served: Served, folder: Path, lines: int) -> tuple[list[dict[str, Any]], Classified]:
    """Every round's figures, and the command on the whole file."""
    texts = texts_of(Lengths().draw(1024, 0, 3, served.info.max_length), lambda some: served.count(some, {}), 0)
    counts = served.count(texts, {})
    sent = traffic(served.encoder({}), texts, counts, batch_size=BATCH_SIZE, max_length=served.info.max_length)
    part = max(1, lines // 5)
    few, all_lines = written(folder, texts, part), written(folder, texts, lines)
    rounds = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Measuring", total=2 * ROUNDS + 5)
        for _ in range(ROUNDS):
            speed = saturated(served, sent)
            progress.advance(task)
            found = classify(served, few, part)
            progress.advance(task)
            ratio = found.tokens_per_second / speed
            rounds.append({"saturated_tokens_per_second": speed, "ratio": ratio, "classify": asdict(found)})
        whole = classify(served, all_lines, lines)
        progress.advance(task, 5)
    return rounds, whole


def main(repository: str, name: str, lines: int) -> None:
    """Measure, print a table, keep the figures."""
    built(Path(repository), name)
    with serving(Path(repository), [name]) as server, tempfile.TemporaryDirectory() as folder:
        rounds, whole = rounds_on(Served(server.grpc, name, 60.0), Path(folder), lines)
    table = Table("figure", "median", "min", "max", title=f"{name}, {ROUNDS} rounds of {max(1, lines // 5):,} lines")
    summary: dict[str, Any] = {}

    def row(title: str, form: str, values: list[float]) -> None:
        summary[title] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        table.add_row(title, *(format(value, form) for value in summary[title].values()))

    row("saturated, tokens/s", ",.0f", [each["saturated_tokens_per_second"] for each in rounds])
    row("classify, tokens/s", ",.0f", [each["classify"]["tokens_per_second"] for each in rounds])
    row("classify ÷ saturated", ".3f", [each["ratio"] for each in rounds])
    row("classify, cores", ".2f", [each["classify"]["cpu_seconds"] / each["classify"]["seconds"] for each in rounds])
    row("classify, peak MB", ".0f", [each["classify"]["peak_megabytes"] for each in rounds])
    Console().print(table)
    share = whole.tokens_per_second / summary["saturated, tokens/s"]["median"]
    Console().print(
        f"{lines:,} lines in one run: {whole.seconds:.1f} s, {whole.tokens_per_second:,.0f} tokens/s, {share:.3f} of "
        f"the saturated server's median, {whole.peak_megabytes:.0f} MB at its peak",
        highlight=False,
    )
    command = f"python -m benchmarks.files REPOSITORY {name} --lines {lines}"
    write(f"files-{name}", command, {"summary": summary, "whole": asdict(whole) | {"ratio": share}, "rounds": rounds})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__)
    parser.add_argument("repository")
    parser.add_argument("name")
    parser.add_argument("--lines", type=int, default=100_000)
    arguments = parser.parse_args()
    main(arguments.repository, arguments.name, arguments.lines)
