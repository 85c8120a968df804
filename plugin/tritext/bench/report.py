"""The results of a benchmark, as a JSON document and as tables."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isnan
from typing import Any, Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tritext.bench.environment import machine, versions
from tritext.bench.measure import Closed, Measured
from tritext.bench.summary import Summary

_PACKAGES: Final = ("tritext", "grpcio", "tritonclient", "protobuf", "nvidia-pytriton", "openvino", "onnxruntime")
_NONE: Final = "\N{EN DASH}"
# Later than this, and what was measured is the generator's delay as well.
_LATE_MS: Final = 1.0
# When an answer takes more of the window than this, the few that end in it are a rough measure of throughput.
_LONG: Final = 0.2


def document(command: str, about: dict[str, Any], measured: Sequence[Measured]) -> dict[str, Any]:
    """Everything, with the `command` that made it and what it was `about`: the model, its texts, the conditions."""
    return {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(_PACKAGES),
        **about,
        "units": {"times": "milliseconds", "rates": "per second", "tokens": "real tokens, no padding"},
        "results": [each.as_dict() for each in measured],
    }


def tables(measured: Sequence[Measured]) -> RenderableType:
    """What the client saw, and below it what the server did meanwhile."""
    parts: list[RenderableType] = [_client(measured), "", _server(measured)]
    if notes := [note for each in measured for note in _notes(each)]:
        parts += ["", *notes]
    return Group(*parts)


def _client(measured: Sequence[Measured]) -> Table:
    table = _table("load", "req/s", "texts/s", "tokens/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "refused", "failed")
    for each in measured:
        figures = each.client
        rates = (figures.requests_per_second, figures.texts_per_second, figures.tokens_per_second)
        times = (figures.p50, figures.p90, figures.p99, figures.max)
        failed = Text(f"{sum(figures.failed.values()):,}", style="red" if figures.failed else "")
        refused = Text(f"{figures.refused:,}", style="yellow" if figures.refused else "")
        table.add_row(str(each.load), *map(_rate, rates), *map(_time, times), refused, failed)
    return table


def _server(measured: Sequence[Measured]) -> Table:
    table = _table(
        "in the server", "queue ms", "tokenize", "encode", "postprocess", "texts/call", "padding", "client CPU"
    )
    for each in measured:
        side = each.server
        times = (side.queue, side.tokenize, side.encode, side.postprocess) if side else (None,) * 4
        texts, waste = (side.texts_per_call, side.padding_waste) if side else (None, None)
        cores = f"{each.client.generator_cores:.2f}"
        table.add_row(str(each.load), *map(_time, times), _rate(texts), _percent(waste), cores)
    return table


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def _notes(each: Measured) -> list[Text]:
    notes = []
    for kind, count in each.client.failed.items():
        notes.append(Text(f"{each.load}: {count:,} of {each.client.requests:,} requests failed: {kind}", style="red"))
    if each.client.refused:
        sentence = (
            f"{each.load}: {each.client.refused:,} of {each.client.requests:,} requests were refused, 99 % of them "
            f"within {_time(each.client.refused_p99)} ms; the percentiles are those of the others"
        )
        notes.append(Text(sentence, style="yellow"))
    p50 = each.client.p50
    if p50 is not None and p50 > _LONG * 1e3 * each.client.seconds:
        sentence = (
            f"{each.load}: answers take a good part of the {each.client.seconds:.1f} s; measure longer (--duration)"
        )
        notes.append(Text(sentence, style="yellow"))
    late = each.client.late_p99
    if late is not None and late > _LATE_MS and not isinstance(each.load, Closed):
        sentence = f"{each.load}: 1 % of the requests were sent {late:.1f} ms late or later; latencies contain it"
        notes.append(Text(sentence, style="yellow"))
    return notes


def short(figures: Summary) -> str:
    """One load's result in a line."""
    unanswered = {"refused": figures.refused, "failed": sum(figures.failed.values())}
    rest = "".join(f", {count:,} {what}" for what, count in unanswered.items() if count)
    return f"{_rate(figures.texts_per_second)} texts/s, p50 {_time(figures.p50)} ms, p99 {_time(figures.p99)} ms{rest}"


def _rate(value: float | None) -> str:
    return _NONE if value is None or isnan(value) else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _time(value: float | None) -> str:
    return _NONE if value is None else f"{value:,.2f}" if value < 10 else f"{value:,.1f}"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{100 * share:.0f} %"
