"""Thousands of requests at once that all are to be answered: whether Triton lives through them.

    python -m benchmarks.reliability.crowd .demo/repository spam

Triton 2.51 writes into memory that is not its own any more once more than 1,000 requests have waited to be begun
(`tritext.serve.shedding` says why). The fences let few in at a time. Here the same crowds come through the fence and,
with `--no-grpc-fence`, past it; without a latency goal, so that none is refused. What is corrupt may show late: in a
later crowd, or when the server is stopped, which its log tells.
"""

import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.efficiency import requests
from benchmarks.reliability.burst import burst
from benchmarks.report import write
from benchmarks.serving import serving
from tritext.bench.lengths import Lengths
from tritext.bench.served import METHOD, Served

CROWD: Final = 5000
CROWDS: Final = 4
SERVERS: Final = 2  # of each kind, one after the other
_TIMEOUT: Final = 30.0
_KINDS: Final = {"through the fence": (), "past it": ("--no-grpc-fence",)}


def crowds(repository: Path, name: str, options: tuple[str, ...]) -> dict[str, Any]:
    """What became of the requests to one server, until it loses some."""
    answered = refused = 0
    with serving(repository, [name], "--latency-goal", "0", *options) as server:
        served = Served(server.grpc, name, _TIMEOUT)
        messages = list(islice(cycle(requests(served, Lengths(), 1).payloads), CROWD))
        for _ in range(CROWDS):
            try:
                status = burst(server.grpc, METHOD, messages, _TIMEOUT).status
            except OSError:  # it hung up, or is not there any more
                break
            answered, refused = answered + int((status == 0).sum()), refused + int((status > 0).sum())
            if np.any(status < 0):
                break
    lost = CROWD * CROWDS - answered - refused
    return {"answered": answered, "refused or failed": refused, "lost or not sent any more": lost}


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    turns = track(range(SERVERS), "Measuring", console=Console(stderr=True))
    rounds = [{kind: crowds(Path(repository), name, options) for kind, options in _KINDS.items()} for _ in turns]
    table = Table("way", "answered", "refused or failed", "lost or not sent any more", "servers that lost some")
    summary = {}
    for kind in _KINDS:
        each = [found[kind] for found in rounds]
        total = {key: sum(found[key] for found in each) for key in each[0]}
        summary[kind] = {
            **total,
            "servers that lost some": sum(found["lost or not sent any more"] > 0 for found in each),
        }
        table.add_row(kind, *(f"{value:,}" for value in summary[kind].values()))
    Console().print(table)
    command = f"python -m benchmarks.reliability.crowd REPOSITORY {name}"
    write(f"crowd-{name}", command, {"crowd": CROWD, "crowds": CROWDS, "summary": summary, "rounds": rounds})


if __name__ == "__main__":
    main(*sys.argv[1:3])
