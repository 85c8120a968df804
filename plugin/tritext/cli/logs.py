"""Where `tritext serve` says what: to people, or to what collects logs."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self, TextIO

from rich.console import Console

if TYPE_CHECKING:
    from tritext.serve.log_format import LogFormat


class Style(StrEnum):
    """How the log is written."""

    text = "text"
    json = "json"


@dataclass(frozen=True)
class Logs:
    """`sink` takes the lines of Triton's log as `format` makes them; `console` is for what the command says itself."""

    console: Console
    format: "LogFormat"
    sink: Callable[[str], None]

    @classmethod
    def of(cls, style: Style) -> Self:
        """Both on standard error. As JSON that holds for whatever the process writes there from now on."""
        from tritext.serve.log_format import JsonFormat, JsonStream, TextFormat

        if style is Style.text:
            console = Console(stderr=True)
            return cls(console, TextFormat(), lambda line: _dim(console, line))
        stderr = sys.stderr
        sys.stderr = JsonStream(stderr)
        # So wide that nothing is wrapped: a sentence is one object.
        return cls(Console(stderr=True, width=10_000), JsonFormat(), lambda line: _plain(stderr, line))


def _dim(console: Console, line: str) -> None:
    console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def _plain(stream: TextIO, line: str) -> None:
    stream.write(line + "\n")
    stream.flush()
