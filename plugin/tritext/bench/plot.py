"""Latency against throughput, as a picture. Needs matplotlib: the extra `bench`."""

import importlib
from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path
from typing import Any, Final

from tritext.bench.measure import Closed, Measured
from tritext.errors import InvalidInput, TritextError

FORMATS: Final = (".svg", ".png", ".pdf")
_CURVES: Final = (("p50", "-"), ("p99", "--"))


def check(path: Path) -> None:
    """Before a long run: whether a plot can be made there. InvalidInput or TritextError, with what to do, if not."""
    if path.suffix.lower() not in FORMATS:
        raise InvalidInput(f"--plot is {path}, whose ending says no format. Let it end in {', '.join(FORMATS)}.")
    _matplotlib()


def plot(measured: Sequence[Measured], title: str, path: Path) -> None:
    """Draw the median and the 99th percentile of every load into `path`."""
    throughput, unit = _throughput(measured)
    figure = _matplotlib()(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for loop, color, of_loop in _loops(measured):
        for percentile, style in _CURVES:
            points = [(throughput(each), getattr(each.client, percentile)) for each in of_loop]
            points = [(rate, latency) for rate, latency in points if latency is not None]
            axes.plot(
                *zip(*points, strict=True), style, marker="o", color=color, label=f"{loop}, {percentile}"
            ) if points else None
        for each in of_loop:
            if each.client.p99 is not None:
                place = (throughput(each), each.client.p99)
                axes.annotate(str(each.load), place, (0, 6), textcoords="offset points", fontsize=8, ha="center")
    axes.set(xlabel=f"{unit} per second", ylabel="latency of a request, ms", yscale="log", title=title)
    axes.set_xlim(left=0)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise TritextError(f"{path} cannot be written: {error.strerror}.") from error


def _throughput(measured: Sequence[Measured]) -> tuple[Callable[[Measured], float], str]:
    """What throughput is counted in: texts where nobody could count their tokens."""
    if any(isnan(each.client.tokens_per_second) for each in measured):
        return lambda each: each.client.texts_per_second, "texts"
    return lambda each: each.client.tokens_per_second, "real tokens"


def _loops(measured: Sequence[Measured]) -> list[tuple[str, str, list[Measured]]]:
    closed = [each for each in measured if isinstance(each.load, Closed)]
    opened = [each for each in measured if not isinstance(each.load, Closed)]
    loops = (("closed loop", "tab:blue", closed), ("open loop", "tab:orange", opened))
    return [(name, color, each) for name, color, each in loops if each]


def _matplotlib() -> Any:
    """The class Figure, which draws without a display."""
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise TritextError(
            f"--plot needs {error.name}, which is not installed. Install it with: pip install 'tritext[bench]'"
        ) from error
