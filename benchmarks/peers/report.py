"""The comparison as a document and as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from statistics import median
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.peers.catalogue import DEFAULT, Peer
from benchmarks.peers.measure import Load, Record
from benchmarks.peers.results import at_rates, best, ceiling, figures, ratio, speed, verdicts
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
    records: Mapping[str, Record],
    absent: Mapping[str, str],
    about: Mapping[str, Any],
    checkpoint: str,
    alone: Sequence[float] = (),
) -> dict[str, Any]:
    """Everything, for JSON; `alone` is the speed of the engine without a server, round by round."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        **about,
        "units": {"times": "milliseconds", "rates": "per second", "tokens": "real tokens, no padding"},
        "verdicts": verdicts(records, checkpoint),
        "engine_alone": ceiling(records, alone) if alone else None,
        "at_rates": at_rates(records),
        "servers": {name: _server(record) for name, record in records.items()},
        "absent": dict(absent),
    }


def _server(record: Record) -> dict[str, Any]:
    peer = record.peer
    return {
        "title": peer.title,
        "family": peer.family,
        "precision": peer.precision,
        "versions": versions(peer),
        "idle_cores": round(median(record.idle_cores), 4) if record.idle_cores else None,
        "best": str(best(record)),
        "loads": [
            {"loop": load.loop, "level": load.level, **_rounded(asdict(figures(record, load)))}
            for load in sorted(record.rounds)
        ],
    }


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def tables(
    records: Mapping[str, Record], absent: Mapping[str, str], checkpoint: str, alone: Sequence[float] = ()
) -> RenderableType:
    """Throughput, latencies, latencies at rates, the ratios aimed at, who was what, and who could not take part."""
    parts: list[RenderableType] = []
    for table in (_throughput(records), _latency(records), _rates(records), _verdicts(records, checkpoint)):
        parts += [table, ""]
    if alone:
        parts += [_ceiling(records, alone), ""]
    parts += [_about(record.peer) for record in records.values()]
    parts += [f"[yellow]{name} took no part:[/yellow] {reason}" for name, reason in absent.items()]
    return Group(*parts)


def _closed(records: Mapping[str, Record]) -> list[Load]:
    return sorted({load for record in records.values() for load in record.rounds if load.loop == "closed"})


def _throughput(records: Mapping[str, Record]) -> Table:
    closed = _closed(records)
    table = _table("tokens/s", "precision", *map(str, closed), "failed", f"{DEFAULT} to it")
    default = records.get(DEFAULT)
    for name, record in records.items():
        measured = [figures(record, load) for load in closed]
        times = f"{ratio(speed(default), speed(record)):.2f}" if default else _NONE
        failed = f"{sum(each.failed for each in measured):,}"
        cells = [f"{each.tokens_per_second:,.0f}" for each in measured]
        table.add_row(name, str(record.peer.precision), *cells, failed, times)
    return table


def _latency(records: Mapping[str, Record]) -> Table:
    closed = _closed(records)
    table = _table("p50 and p99, ms", *(heading for load in closed for heading in (str(load), "")))
    for name, record in records.items():
        measured = [figures(record, load) for load in closed]
        table.add_row(name, *(cell for each in measured for cell in (_ms(each.p50), _ms(each.p99))))
    return table


def _about(peer: Peer) -> str:
    known = ", ".join(f"{package} {version}" for package, version in versions(peer).items())
    return f"[bold]{peer.name}[/bold]: {peer.title}; {known}"


def _rates(records: Mapping[str, Record]) -> Table:
    table = _table("at a rate of", "texts/s", "p50 ms", "p99 ms", f"{DEFAULT} p50", f"{DEFAULT} p99")
    for row in at_rates(records):
        times = [_ms(row[name]) for name in ("p50", "p99", "tritext_p50", "tritext_p99")]
        table.add_row(row["peer"], f"{row['rate']:g}", *times)
    return table


def _verdicts(records: Mapping[str, Record], checkpoint: str) -> Table:
    table = _table("ratio of tokens/s", "tritext", "peer", "times", "aim", "")
    for title, row in verdicts(records, checkpoint).items():
        word = {True: "[green]met[/green]", False: "[red]missed[/red]", None: ""}[row["met"]]
        aim = _NONE if row["aim"] is None else f"{row['aim']:g}"
        table.add_row(title, row["tritext"], row["peer"], f"{row['ratio']:.2f}", aim, word)
    return table


def _ceiling(records: Mapping[str, Record], alone: Sequence[float]) -> str:
    found = ceiling(records, alone)
    times = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in found["times"].items())
    return f"The engine of {DEFAULT} alone, full calls: {found['tokens_per_second']:,.0f} tokens/s; {times}"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=not place)
    return table


def _ms(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.1f}"


def rungs(capacity: float, count: int = 2) -> list[Load]:
    """The highest rates of a ladder of powers of two that a server of so many texts a second carries with ease."""
    rates = [2.0**power for power in range(-1, 16) if 2.0**power <= 0.85 * capacity]
    return [Load("open", rate) for rate in rates[-count:]]
