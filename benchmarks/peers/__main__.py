"""Measure tritext and its peers in one run.

    python -m benchmarks.peers.setup                       # once: their environments, about 3 GB
    python -m benchmarks.peers --checkpoint minilm         # about 20 minutes; the machine should do nothing else
    python -m benchmarks.peers --checkpoint bert-base
    python -m benchmarks.peers --quick --peers fastapi,tritext

Every server is checked before it is measured: its labels must be the checkpoint's. Then all are loaded in turn, round
by round, so that a drift of the machine's speed meets all of them. First in closed loops of so many callers, one text
a request; then, to compare latencies at equal traffic, at random arrivals of rates that each peer can carry, which
the default tritext gets as well.
"""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.bare import Bare, built
from benchmarks.peers import measure, prepare, report
from benchmarks.peers.catalogue import DEFAULT, PEERS, Peer
from benchmarks.peers.measure import Entrant, Load
from benchmarks.peers.processes import Running, ServerFailed, free_port
from benchmarks.peers.setup import ENVIRONMENTS
from tritext.bench.lengths import Lengths
from tritext.repository import committed
from tritext.settings import EngineSettings

RESULTS: Final = Path(__file__).resolve().parents[1] / "results"
WARM_UP: Final = 6.0  # seconds


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser("python -m benchmarks.peers", description="Measure tritext and its peers.")
    parser.add_argument("--checkpoint", choices=sorted(prepare.FOLDERS), default="minilm")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--concurrency", default="1,16,64", help="callers of the closed loops")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each window; slow servers get longer ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--open-rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round: shows that it works, measures nothing")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seconds, chosen.rounds, chosen.open_rounds = 1.0, 1, 1
    if unknown := set(chosen.peers.split(",")) - set(PEERS):
        parser.error(f"there is no peer {min(unknown)}; there are {', '.join(PEERS)}")
    return chosen


def enter(peer: Peer, name: str, source: Path, texts: prepare.Texts, stack: ExitStack) -> tuple[Entrant, int]:
    """Start, check and warm up one server; how many labels were right. ServerFailed where it cannot take part."""
    port = free_port()
    command = prepare.command(peer, name, source, port)
    if peer.is_ours:
        model = committed(prepare.repository(peer, name), "peer")
        if model is not None:
            first = EngineSettings.read(model.step("encoder")).variants[0]
            peer = replace(peer, precision=first.precision, title=f"{peer.title} ({first.engine})")
    log = ENVIRONMENTS / "logs" / name / f"{peer.name}.log"
    running = stack.enter_context(Running(command, log, prepare.environment(peer)))
    entrant = Entrant(peer=peer, port=port, running=running)
    try:
        checked = measure.answers_rightly(entrant, texts)
        measure.warm_up(entrant, texts, WARM_UP)
    except ServerFailed:
        running.stop()
        raise
    if peer.can_be_paused:
        running.pause()
    return entrant, checked


def rounds(entrants: list[Entrant], loads: dict[str, list[Load]], texts: prepare.Texts, seconds: float,
           count: int, progress: Progress, between: Callable[[], None] = lambda: None) -> None:  # fmt: skip
    """Every server under its `loads`, `count` times over, and `between` before; each begins with another server."""
    total = count * sum(map(len, loads.values()))
    task = progress.add_task("", total=total)
    for number in range(count):
        between()
        for entrant in entrants[number % len(entrants) :] + entrants[: number % len(entrants)]:
            others = [other for other in entrants if other is not entrant]
            with entrant.awake():
                for load in loads[entrant.peer.name]:
                    what = f"round {number + 1} of {count}: {entrant.peer.name}, {load}"
                    progress.update(task, description=what)
                    measure.visit(entrant, others, texts, load, seconds, number)
                    progress.advance(task)
        progress.console.print(f"round {number + 1} of {count} done")


def open_loads(entrants: list[Entrant]) -> dict[str, list[Load]]:
    """Rates that each server carries, and for the default tritext those of all the others that it carries too."""
    capacity = {entrant.peer.name: _texts_per_second(entrant) for entrant in entrants}
    loads = {entrant.peer.name: report.rungs(capacity[entrant.peer.name]) for entrant in entrants}
    if DEFAULT in loads:
        loads[DEFAULT] = sorted({load for each in loads.values() for load in each if load.level < capacity[DEFAULT]})
    return {name: each if name == DEFAULT or not PEERS[name].is_ours else [] for name, each in loads.items()}


def _texts_per_second(entrant: Entrant) -> float:
    return max(median(each.texts_per_second for each in rounds) for rounds in entrant.rounds.values())


def main() -> None:
    """Prepare, start, check, measure, report."""
    chosen = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended
    console = Console(stderr=True)
    name: str = chosen.checkpoint
    source = prepare.checkpoint(name)
    texts = prepare.texts(source)
    prepare.exported(name, source)
    entrants: dict[str, Entrant] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        for peer in (PEERS[each] for each in PEERS if each in chosen.peers.split(",")):
            default = entrants.get(DEFAULT)
            if peer.is_ours and default and default.peer.precision == peer.precision:
                console.print(f"{peer.name}: it is what {DEFAULT} is already")
                continue
            try:
                entrants[peer.name], checked = enter(peer, name, source, texts, stack)
            except ServerFailed as error:
                absent[peer.name] = str(error)
                console.print(f"[red]{peer.name}:[/red] {error}", highlight=False)
                continue
            console.print(f"{peer.name}: {checked} of {checked} labels right, ready", highlight=False)
        if not entrants:
            raise SystemExit("No server took part.")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            taking = list(entrants.values())
            closed = [Load("closed", int(level)) for level in chosen.concurrency.split(",")]
            engine = Bare(built(prepare.repository(PEERS[DEFAULT], name), "peer")) if DEFAULT in entrants else None
            alone: list[float] = []

            def measure_alone() -> None:
                if engine is not None:
                    alone.append(engine.tokens_per_second(engine.full(16, 128), chosen.seconds))

            loops = dict.fromkeys(entrants, closed)
            rounds(taking, loops, texts, chosen.seconds, chosen.rounds, progress, measure_alone)
            rounds(taking, open_loads(taking), texts, chosen.seconds, chosen.open_rounds, progress)
    Console().print(report.tables(entrants, absent, name, alone))
    about = {
        "command": shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]),
        "checkpoint": name,
        "texts": {"count": len(texts.texts), "lengths": str(Lengths()), "mean": sum(texts.tokens) / len(texts.tokens)},
    }
    folder = ENVIRONMENTS / "results" if chosen.quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"peers-{name}.json"
    path.write_text(
        json.dumps(report.document(entrants, absent, about, name, alone), indent=2) + "\n", encoding="utf-8"
    )
    console.print(f"Written: {path}")


if __name__ == "__main__":
    main()
