"""A text of 1 MB in windows: the time it takes, and the memory of every process of the server.

    python -m benchmarks.book .demo/repository pii spam

The book is demo/texts/pii.txt again and again. It is sent with `truncation=window` and the usual stride, once a tenth
of it and thrice all of it: memory that stays bounded hardly grows after the first. Megabytes are the most that a
process ever had resident (VmHWM), shared memory included, so the sum counts some of it twice.
"""

import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.report import write
from tritext import Client
from tritext.naming import ROLES, step_name
from tritext.repository import committed
from tritext.serve import Server
from tritext.serve.steps import processes_of

LINES: Final = Path(__file__).parents[1] / "demo" / "texts" / "pii.txt"
SIZES: Final = (100_000, 1_000_000, 1_000_000, 1_000_000)  # bytes
TIMEOUT: Final = 1800.0  # seconds


@dataclass(frozen=True, slots=True)
class Run:
    """One text: its size, what it took, and the peak of each process so far in MB."""

    bytes: int
    tokens: int
    answers: int
    seconds: float
    megabytes: dict[str, int]


def book(size: int) -> str:
    """So many bytes of text, or a few less."""
    lines = LINES.read_text(encoding="utf-8").replace("\n", " ")
    return (lines * (size // len(lines.encode()) + 1)).encode()[:size].decode(errors="ignore")


def peak_megabytes(pid: int) -> int:
    """The most memory that a process ever had resident."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def peaks(server: Server, names: dict[str, str]) -> dict[str, int]:
    """Of Triton itself and of each step, by role; `names` are the steps'."""
    found = {"tritonserver": peak_megabytes(server.process.pid)}
    for role, name in names.items():
        found[role] = sum(peak_megabytes(process.pid) for process in processes_of(name, server.segments))
    return found


def runs(repository: Path, name: str) -> list[Run]:
    """The text of each of `SIZES`, with memory before the first under size 0."""
    model = committed(repository, name)
    if model is None:
        raise SystemExit(f"{repository} has no model {name}; `make demo` builds one.")
    names = {role: step_name(name, role, model.build) for role in ROLES}
    with Server(repository, models=[name], grpc_port=0, http_port=0, metrics_port=0) as server:
        server.wait_ready()
        with Client(server.grpc_url) as client:
            client.classify(name, ["A text of ordinary length, as people write it."])
            found = [Run(0, 0, 0, 0.0, peaks(server, names))]
            for size in SIZES:
                begun = time.monotonic()
                (answer,) = client.classify(name, [book(size)], truncation="window", timeout=TIMEOUT)
                seconds = time.monotonic() - begun
                count = len(getattr(answer, "entities", getattr(answer, "labels", ())))
                found.append(Run(size, answer.token_count, count, seconds, peaks(server, names)))
    return found


def main(repository: str, *names: str) -> None:
    """Measure, print a table, keep the figures."""
    figures = {name: runs(Path(repository), name) for name in names}
    for name, found in figures.items():
        table = Table("bytes", "tokens", "answers", "s", *found[0].megabytes, title=f"{name}, peak MB of each process")
        for run in found:
            row = (run.bytes, run.tokens, run.answers, f"{run.seconds:.1f}", *run.megabytes.values())
            table.add_row(*map(str, row))
        Console().print(table)
    kept = {name: [asdict(run) for run in found] for name, found in figures.items()}
    write("book", f"python -m benchmarks.book REPOSITORY {' '.join(names)}", kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
