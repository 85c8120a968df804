"""From start to ready, and the memory of each step.

    python -m benchmarks.startup .demo/repository spam

Ready means what `tritext serve` means by it: the model answered an inference over gRPC, and its engine agrees with
the reference answers. Memory is what belongs to a step's process alone (Private_* in smaps_rollup), after 200 texts.
"""

import statistics
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.processes import mebibytes
from benchmarks.report import write
from tritext import Client
from tritext.naming import ROLES, step_name
from tritext.repository import committed
from tritext.serve import Server
from tritext.serve.steps import processes_of

RUNS, TEXTS = 7, 200


def one_run(repository: Path, name: str) -> tuple[float, dict[str, float]]:
    """Seconds to ready, and MB of each step by its role."""
    model = committed(repository, name)
    if model is None:
        raise SystemExit(f"{repository} has no model {name}; `make demo` builds one.")
    begun = time.monotonic()
    with Server(repository, models=[name], grpc_port=0, http_port=0, metrics_port=0) as server:
        server.wait_ready()
        seconds = time.monotonic() - begun
        with Client(server.grpc_url) as client:
            client.classify(name, ["A text of ordinary length, as people write it."] * TEXTS)
        return seconds, {role: private(step_name(name, role, model.build), server) for role in ROLES}


def private(step: str, server: Server) -> float:
    """MB that the processes of a step have for themselves: an encoder has one for each instance."""
    return sum(mebibytes(process.pid, "Private_") for process in processes_of(step, server.segments))


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    runs = [one_run(Path(repository), name) for _ in track(range(RUNS), "Starting", console=Console(stderr=True))]
    times = [seconds for seconds, _ in runs]
    memory = {role: statistics.median(run[role] for _, run in runs) for role in ROLES}
    table = Table("figure", "median", "min", "max", title=f"{name}, {RUNS} starts")
    table.add_row("start to ready, s", *(f"{f(times):.2f}" for f in (statistics.median, min, max)))
    for role in ROLES:
        values = [run[role] for _, run in runs]
        table.add_row(f"{role}, private MB", *(f"{f(values):.0f}" for f in (statistics.median, min, max)))
    Console().print(table)
    figures = {
        "seconds_to_ready": {"median": statistics.median(times), "runs": times},
        "private_megabytes": memory,
    }
    write(f"startup-{name}", f"python -m benchmarks.startup REPOSITORY {name}", figures)


if __name__ == "__main__":
    main(*sys.argv[1:3])
