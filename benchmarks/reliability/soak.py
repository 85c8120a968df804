"""Mixed traffic for an hour with a new version every minute: whether anything grows, and whether any request fails.

    python -m benchmarks.reliability.soak .demo/repository spam pii --minutes 60

MODEL... must be in the repository; the first one needs a second build to swap with (`tritext build … --force` makes
one). Memory of each process, shared memory and open files are sampled every ten seconds; what the second quarter of the
time had at the median is compared with the last quarter.
"""

import argparse
import contextlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.processes import resident
from benchmarks.reliability.healing import segments
from benchmarks.report import write
from benchmarks.serving import Running, serving
from tritext import Client
from tritext.build import release
from tritext.errors import TritextError
from tritext.naming import STEP_PATTERN
from tritext.repository import committed
from tritext.serve.steps import children

_TEXT: Final = "win a prize now call me tomorrow about the meeting and bring Daniel Okafor with you please"
_WORDS: Final = tuple(_TEXT.split())
_SAMPLE_S: Final = 10.0
_SWAP_S: Final = 60.0
_PAUSE_S: Final = 0.05  # between two calls of a caller, so that the machine is busy and not flooded


@dataclass
class Seen:
    """What happened."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    swaps: int = 0
    samples: list[dict[str, float]] = field(default_factory=list)


def call(address: str, model: str, seen: Seen, stopping: threading.Event, seed: int) -> None:
    """Classify lists of texts of all lengths, over and over, without trying again."""
    chance = random.Random(seed)  # noqa: S311 - texts, not secrets
    with Client(address, timeout=30) as client:
        while not stopping.wait(_PAUSE_S):
            texts = [" ".join(chance.choices(_WORDS, k=chance.randint(1, 120))) for _ in range(chance.randint(1, 6))]
            try:
                seen.answered += len(client.classify(model, texts, retries=0))
            except TritextError as error:
                seen.failed.append(f"{type(error).__name__}: {error}")
                print(seen.failed[-1], file=sys.stderr, flush=True)


@contextlib.contextmanager
def calling(address: str, models: list[str], seen: Seen) -> Iterator[None]:
    """Two callers of each model."""
    stopping = threading.Event()
    threads = [
        threading.Thread(target=call, args=(address, model, seen, stopping, number))
        for number, model in enumerate(models * 2)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def sample(served: Running) -> dict[str, float]:
    """MB of each process, by what it does in which model; pieces of shared memory; open files of all."""
    found: dict[str, float] = {"/dev/shm pieces": segments(served.triton)}  # noqa: S108 - a name, not a path to write
    files = 0
    for pid in (served.process.pid, served.triton, *children(served.triton)):
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):  # it has just ended
            name = _name(pid, served, (folder / "cmdline").read_text(errors="replace"))
            files += len(list((folder / "fd").iterdir()))
            found[name] = found.get(name, 0.0) + resident(pid)
    return {**found, "open files": files}


def _name(pid: int, served: Running, cmdline: str) -> str:
    if pid == served.process.pid:
        return "tritext serve MB"
    if pid == served.triton:
        return "tritonserver MB"
    script = cmdline.split("\0")[1] if "\0" in cmdline else ""
    step = STEP_PATTERN.fullmatch(Path(script).parent.parent.name)
    return f"{step['name']} {step['role']} MB" if step else "other MB"


def run(served: Running, repository: Path, model: str, minutes: float, seen: Seen) -> None:
    """Swap builds once a minute, and sample."""
    current = committed(repository, model)
    builds = sorted(folder.name for folder in (repository / model / "builds").iterdir())
    if current is None or len(builds) < 2:
        sys.exit(f"{model} has one build only. Make another: tritext build CHECKPOINT --name {model} --force.")
    begun = time.monotonic()
    next_swap, turn = begun + _SWAP_S, 0
    while time.monotonic() < begun + minutes * 60:
        time.sleep(_SAMPLE_S)
        seen.samples.append({"s": round(time.monotonic() - begun), **sample(served)})
        if time.monotonic() > next_swap:
            next_swap += _SWAP_S
            turn += 1
            release.rollback(repository, model, builds[turn % 2])
            seen.swaps += 1
            print(f"{seen.samples[-1]['s']:.0f} s: {seen.answered} answers, {len(seen.failed)} failed, {seen.swaps} "
                  "swaps", file=sys.stderr, flush=True)  # fmt: skip


def growth(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Of everything that was sampled: medians of the second and the last quarter, and their ratio."""
    quarter = len(samples) // 4
    names = sorted({name for each in samples for name in each} - {"s"})
    rows = {}
    for name in names:
        early = statistics.median(each.get(name, 0.0) for each in samples[quarter : 2 * quarter])
        late = statistics.median(each.get(name, 0.0) for each in samples[-quarter:])
        rows[name] = {"early": round(early, 1), "late": round(late, 1), "ratio": round(late / early, 3) if early else 0}
    return rows


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--minutes", type=float, default=60.0)
    arguments = parser.parse_args()
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "repository"
        shutil.copytree(arguments.repository, repository)
        with serving(repository, arguments.models) as served, calling(served.grpc, arguments.models, seen):
            run(served, repository, arguments.models[0], arguments.minutes, seen)
    rows = growth(seen.samples)
    table = Table("", "second quarter", "last quarter", "ratio")
    for name, row in rows.items():
        table.add_row(name, f"{row['early']:g}", f"{row['late']:g}", f"{row['ratio']:.3f}")
    Console().print(table)
    summary = {
        "minutes": arguments.minutes, "answers": seen.answered, "failed": len(seen.failed), "swaps": seen.swaps,
        "first_failures": seen.failed[:5], "growth": rows,
    }  # fmt: skip
    print(json.dumps(summary))
    command = f"python -m benchmarks.reliability.soak .demo/repository {' '.join(arguments.models)}"
    write(
        "reliability-soak",
        f"{command} --minutes {arguments.minutes:g}",
        {"summary": summary, "every_minute": seen.samples[::6]},
    )


if __name__ == "__main__":
    main()
