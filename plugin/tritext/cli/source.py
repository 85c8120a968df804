"""What `tritext classify` was given to read: texts on the command line, a file, or stdin."""

import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tritext.cli.texts import Columns, InputFormat, Lines, Rows, file_lines, from_arguments, live_lines, read

Count = Callable[[int], None]


class Source(Protocol):
    """Rows from somewhere. ``size`` is in bytes, None where it is not known; `rows` tells what it has read."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def unit(self) -> str:
        """What a row's number counts."""
        ...

    @property
    def size(self) -> int | None:
        """Of all there is to read."""
        ...

    @property
    def is_long(self) -> bool:
        """Worth a progress bar."""
        ...

    def rows(self, count: Count) -> Rows:
        """Read, lazily."""
        ...


@dataclass(frozen=True, slots=True)
class Arguments:
    """Texts on the command line, with no second text, one for all, or one for each."""

    texts: list[str]
    pairs: list[str]
    name: str = "the command line"
    unit: str = "text"
    size: int | None = None
    is_long: bool = False

    def rows(self, count: Count) -> Rows:
        """See `Source`."""
        del count
        return from_arguments(self.texts, self.pairs)


@dataclass(frozen=True, slots=True)
class Document:
    """A file, or stdin where `path` is None. `pair` is a second text for every row that has none of its own."""

    path: Path | None
    format: InputFormat
    columns: Columns
    pair: str | None = None
    unit: str = "line"

    @property
    def name(self) -> str:
        """See `Source`."""
        return "stdin" if self.path is None else str(self.path)

    @property
    def size(self) -> int | None:
        """Known for regular files, also where stdin is one."""
        status = os.fstat(0) if self.path is None else self.path.stat()
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    @property
    def is_long(self) -> bool:
        """Not where somebody is typing."""
        return self.path is not None or not sys.stdin.isatty()

    def rows(self, count: Count) -> Rows:
        """See `Source`."""
        if self.path is None:
            yield from self._read(live_lines(0, count))
        else:
            with self.path.open("rb") as file:
                yield from self._read(file_lines(file, count))

    def _read(self, lines: Lines) -> Rows:
        return read(lines, self.format, self.name, self.columns, self.pair)
