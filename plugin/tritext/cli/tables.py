"""Results as tables for people: streamed in pages of fixed columns, so that a long input needs no memory.

Colour and highlights on a terminal; in a pipe the same in plain characters.
"""

import math
import re
from itertools import cycle
from typing import Any, Final

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tritext.cli.output import Emit
from tritext.cli.texts import Row
from tritext.client import ModelInfo
from tritext.results import Result, entries

PAGE: Final = 25
BAR: Final = 10
_LABEL: Final = 28  # cells for a label, at most
_NUMBERS: Final = 44  # cells for the first numbers of a vector
LONGEST: Final = 1500  # characters of a text that are shown
PALETTE: Final = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")

# What would end the line, move the cursor, change colours or turn the line around: C0, C1, separators,
# bidirectional controls, BOM.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb]")
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


class TableWriter:
    """Keeps a page of results, then prints it."""

    def __init__(self, emit: Emit, console: Console, info: ModelInfo) -> None:
        self._emit = emit
        self._console = console
        self._page: list[tuple[Row, Result]] = []
        self._is_first = True
        kinds = dict.fromkeys(_bare(label) for label in info.labels if label != "O")
        self._colors = dict(zip(kinds, cycle(PALETTE), strict=False))
        widths = [cell_len(label) for label in info.labels] or [_LABEL]  # without labels: answers, of any length
        self._label_width = min(_LABEL, max(5, *widths))

    def write(self, row: Row, result: Result) -> None:
        """Keep one; print the page when it is full."""
        self._page.append((row, result))
        if len(self._page) == PAGE:
            self.flush()

    def flush(self) -> None:
        """Print what was kept."""
        if not self._page:
            return
        with self._console.capture() as captured:
            shown = {"ranked": self._labels, "spans": self._entities, "vector": self._vectors}
            self._console.print(shown[self._page[0][1].form]())
        self._emit("".join(line.rstrip() + "\n" for line in captured.get().splitlines()))
        self._page.clear()
        self._is_first = False

    def _labels(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=self._is_first, pad_edge=False)
        text_width = max(20, self._console.width - self._label_width - 5 - 7 - BAR - 4 * 2 - 4)
        table.add_column("", justify="right", style="dim", width=5)
        table.add_column("text", width=text_width, overflow="fold")
        table.add_column("label", width=self._label_width, overflow="ellipsis", no_wrap=True)
        table.add_column("score", justify="right", width=7)
        table.add_column("", width=BAR, no_wrap=True)
        for row, result in self._page:
            table.add_row(str(row.line), _excerpt(row, result, 2 * text_width - 1), *self._scores(result))
        return table

    def _scores(self, result: Result) -> tuple[RenderableType, RenderableType, RenderableType]:
        labels, scores, bars = [], [], []
        for place, pair in enumerate(entries(result)):
            color = self._color(pair.label)
            labels.append(Text(printable(pair.label), style=f"bold {color}" if place == 0 else color))
            scores.append(f"{pair.score:.3f}")
            bars.append(Text(bar(pair.score), style=color))
        return (
            Text("\n").join(labels) if labels else Text("none", style="dim"),
            "\n".join(scores),
            Text("\n").join(bars),
        )

    def _entities(self) -> Group:
        blocks: list[RenderableType] = []
        for row, result in self._page:
            blocks += [self._marked(row, result), self._list(result), ""]
        return Group(*blocks)

    def _vectors(self) -> Table:
        """How long each vector is, in both senses, and its first numbers."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, show_header=self._is_first, pad_edge=False)
        text_width = max(20, self._console.width - 5 - 6 - 7 - _NUMBERS - 4 * 2 - 4)
        table.add_column("", justify="right", style="dim", width=5)
        table.add_column("text", width=text_width, overflow="fold")
        table.add_column("size", justify="right", width=6)
        table.add_column("norm", justify="right", width=7)
        table.add_column("vector", width=_NUMBERS, no_wrap=True, overflow="ellipsis")
        for row, result in self._page:
            vector = entries(result)
            numbers = " ".join(f"{number:.3f}" for number in vector[:6])
            text = _excerpt(row, result, 2 * text_width - 1)
            shown = Text(numbers + (" …" if len(vector) > 6 else ""), style="dim")
            table.add_row(str(row.line), text, str(len(vector)), f"{math.hypot(*vector):.3f}", shown)
        return table

    def _marked(self, row: Row, result: Result) -> Table:
        text = Text()
        at = 0
        for entity in entries(result):
            if entity.start < at or entity.end > LONGEST:
                continue
            text.append(printable(row.text[at : entity.start]))
            text.append_text(self._mark(row.text[entity.start : entity.end], entity))
            at = entity.end
        text.append(printable(row.text[at : max(at, LONGEST)]))
        if len(row.text) > max(at, LONGEST):
            text.append(f" … {len(row.text) - max(at, LONGEST):,} more characters", style="dim")
        text.append_text(_cut(result))
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(justify="right", style="dim", width=5)
        line.add_column(overflow="fold")
        line.add_row(str(row.line), text)
        return line

    def _mark(self, word: str, entity: Any) -> Text:
        if self._console.color_system is None or self._console.no_color:
            return Text(f"[{printable(word)}]({printable(entity.label)})")
        color = self._color(entity.label)
        return Text.assemble((printable(word), f"black on {color}"), (f" {printable(entity.label)}", f"bold {color}"))

    def _list(self, result: Result) -> RenderableType:
        if not entries(result):
            return Padding(Text("nothing found", style="dim"), (0, 0, 0, 7))
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(width=self._label_width, overflow="ellipsis", no_wrap=True)
        table.add_column(width=min(40, max(cell_len(printable(e.word)) for e in entries(result))), no_wrap=True)
        table.add_column(justify="right", no_wrap=True, style="dim")
        table.add_column(justify="right", width=7)
        table.add_column(width=BAR, no_wrap=True)
        for entity in entries(result):
            color = self._color(entity.label)
            table.add_row(
                Text(printable(entity.label), style=f"bold {color}"),
                Text(printable(entity.word), overflow="ellipsis"),
                f"{entity.start}-{entity.end}",
                f"{entity.score:.3f}",
                Text(bar(entity.score), style=color),
            )
        return Padding(table, (0, 0, 0, 7))

    def _color(self, label: str) -> str:
        return self._colors.get(_bare(label), PALETTE[0])


def bar(score: float) -> str:
    """A bar of at most `BAR` cells for a probability; none for other scores, such as a regression's."""
    if not 0.0 <= score <= 1.0:
        return ""
    full, eighths = divmod(round(score * BAR * 8), 8)
    return "█" * full + _EIGHTHS[eighths].strip()


def printable(text: str) -> str:
    """`text` in one line, each control character shown as one visible character or space."""
    return _UNPRINTABLE.sub(lambda match: _picture(match[0]), text)


def _picture(character: str) -> str:
    if character in "\t\n\r\v\f\x85\u2028\u2029":
        return " "
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\N{REPLACEMENT CHARACTER}"


def _excerpt(row: Row, result: Result, width: int) -> Text:
    text = Text(_shortened(row.text, width))
    if row.pair is not None:
        text.append(f"\n↳ {_shortened(row.pair, width)}", style="dim")
    return text.append_text(_cut(result))


def _shortened(text: str, width: int) -> str:
    """At most `width` cells of `text`, with its white space narrowed."""
    line = re.sub(r"\s+", " ", printable(text[: 4 * width])).strip()
    if cell_len(line) <= width and len(text) <= 4 * width:
        return line
    return set_cell_size(line, min(width, cell_len(line) + 1) - 1).rstrip() + "…"


def _cut(result: Result) -> Text:
    return Text(f" (cut, {result.token_count:,} tokens)" if result.truncated else "", style="dim italic")


def _bare(label: str) -> str:
    """B-PER and I-PER share a colour."""
    return label[2:] if label.startswith(("B-", "I-")) else label
