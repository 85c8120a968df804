"""The comparison as a document and as tables."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from statistics import median
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.peers.catalogue import DEFAULT, Peer
from benchmarks.peers.measure import Entrant, Load
from benchmarks.peers.results import at_rates, best, figures, ratio, speed, verdicts
from benchmarks.peers.setup import requirements
from tritext.bench.environment import machine

_NONE: Final = "\N{EN DASH}"


def versions(peer: Peer) -> dict[str, str]:
    """Of its packages: as its environment pins them, or as they are installed here."""
    if peer.environment is None:
        return {package: metadata.version(package) for package in peer.packages}
    pinned = {_normal(package): version for package, version in requirements(peer.environment).items()}
    return {package: pinned[_normal(package)] for package in peer.packages}


def _normal(package: str) -> str:
    return package.lower().replace("_", "-")


def document(
    entrants: Mapping[str, Entrant], absent: Mapping[str, str], about: Mapping[str, Any], checkpoint: str
) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        **about,
        "units": {"times": "milliseconds", "rates": "per second", "tokens": "real tokens, no padding"},
        "verdicts": verdicts(entrants, checkpoint),
        "at_rates": at_rates(entrants),
        "servers": {name: _server(entrant) for name, entrant in entrants.items()},
        "absent": dict(absent),
    }


def _server(entrant: Entrant) -> dict[str, Any]:
    peer = entrant.peer
    return {
        "title": peer.title,
        "family": peer.family,
        "precision": peer.precision,
        "versions": versions(peer),
        "idle_cores": round(median(entrant.idle_cores), 4) if entrant.idle_cores else None,
        "best": str(best(entrant)),
        "loads": [
            {"loop": load.loop, "level": load.level, **_rounded(asdict(figures(entrant, load)))}
            for load in sorted(entrant.rounds)
        ],
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def tables(entrants: Mapping[str, Entrant], absent: Mapping[str, str], checkpoint: str) -> RenderableType:
    """Throughput, latency at rates, verdicts, and who could not take part."""
    parts: list[RenderableType] = [_throughput(entrants), "", _rates(entrants), "", _verdicts(entrants, checkpoint)]
    parts += [f"[yellow]{name} took no part:[/yellow] {reason}" for name, reason in absent.items()]
    return Group(*parts)


def _throughput(entrants: Mapping[str, Entrant]) -> Table:
    closed = sorted({load for entrant in entrants.values() for load in entrant.rounds if load.loop == "closed"})
    columns = [column for load in closed for column in (f"tokens/s, {load}", "p50 ms", "p99 ms")]
    table = _table("server", "precision", *columns, "failed", f"{DEFAULT} to it", "versions")
    default = entrants.get(DEFAULT)
    for entrant in entrants.values():
        peer, measured = entrant.peer, [figures(entrant, load) for load in closed if load in entrant.rounds]
        cells = [cell for each in measured for cell in (f"{each.tokens_per_second:,.0f}", _ms(each.p50), _ms(each.p99))]
        times = f"{ratio(speed(default), speed(entrant)):.2f}" if default else _NONE
        known = " ".join(f"{package} {version}" for package, version in versions(peer).items())
        failed = str(sum(each.failed for each in measured))
        table.add_row(peer.title, str(peer.precision), *cells, failed, times, known)
    return table


def _rates(entrants: Mapping[str, Entrant]) -> Table:
    table = _table("at a rate of", "texts/s", "p50 ms", "p99 ms", f"{DEFAULT} p50", f"{DEFAULT} p99")
    for row in at_rates(entrants):
        times = [_ms(row[name]) for name in ("p50", "p99", "tritext_p50", "tritext_p99")]
        table.add_row(row["peer"], f"{row['rate']:g}", *times)
    return table


def _verdicts(entrants: Mapping[str, Entrant], checkpoint: str) -> Table:
    table = _table("ratio of tokens/s", "tritext", "peer", "times", "aim", "")
    for title, row in verdicts(entrants, checkpoint).items():
        word = {True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}[row["met"]]
        aim = _NONE if row["aim"] is None else f"{row['aim']:g}"
        table.add_row(title, row["tritext"], row["peer"], f"{row['ratio']:.2f}", aim, word)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left")
    return table


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.1f}"


def rungs(capacity: float, count: int = 2) -> list[Load]:
    """The highest rates of a ladder of powers of two that a server of so many texts a second carries with ease."""
    rates = [2.0**power for power in range(-1, 16) if 2.0**power <= 0.85 * capacity]
    return [Load("open", rate) for rate in rates[-count:]]
