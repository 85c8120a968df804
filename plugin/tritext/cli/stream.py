"""From rows to results to a writer, with no more in memory than is in flight; and how that ends early."""

import io
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

import typer
from rich.console import Console

from tritext.cli.meter import Meter
from tritext.cli.output import Writer
from tritext.cli.source import Source
from tritext.cli.texts import Row
from tritext.client import Client, affected
from tritext.client.batching import Flush
from tritext.errors import TritextError

INTERRUPTED: Final = 130
WIDTH: Final = 100  # of a table that no terminal shows
BROKEN_PIPE: Final = 141  # what a shell shows for a program that SIGPIPE ended


class Target:
    """Where output goes: a file (made when first written to, or on leaving), or stdout."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stream: TextIO | None = None
        self._shared: Console | None = None

    @property
    def is_terminal(self) -> bool:
        """Somebody is looking."""
        return self._path is None and sys.stdout.isatty()

    def share(self) -> Console:
        """A console for a progress bar on this same terminal: what is written will stand above it."""
        self._shared = Console()
        return self._shared

    def console(self) -> Console:
        """What tables are laid out for: colours only for somebody who looks, a fixed width for the rest."""
        if self.is_terminal:
            return Console()
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() else 0
        return Console(file=io.StringIO(), width=width or WIDTH, color_system=None)

    def emit(self, text: str) -> None:
        """Write `text`, whole lines."""
        if self._shared is not None:
            self._shared.out(text, end="", highlight=False)
        else:
            with self._writing():
                self._opened().write(text)

    def flush(self) -> None:
        """Let readers see what was written."""
        if self._stream is not None:
            with self._writing():
                self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shared = None
        if self._stream is None and kind is not None:
            return  # a file of that name stays what it was
        with self._writing():
            stream = self._opened()
            stream.flush() if stream is sys.stdout else stream.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise TritextError(f"{self._path or 'stdout'} cannot be written: {error.strerror}.") from error

    def _opened(self) -> TextIO:
        if self._stream is None:
            if self._path is None:
                self._stream = _utf8(sys.stdout)
            else:
                self._stream = self._path.open("w", encoding="utf-8", errors="backslashreplace", newline="")
        return self._stream


def _utf8(stream: TextIO) -> TextIO:
    # A lone surrogate in a caller's JSON field becomes the escape that it was.
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    return stream


class Stream:
    """Classifies a source's rows and writes each with its result."""

    def __init__(self, client: Client, model: str, options: Mapping[str, Any], source: Source) -> None:
        self._client = client
        self._model = model
        self._options = options
        self._source = source
        self._waiting: deque[Row] = deque()  # sent or about to be, and not yet answered
        self._done = 0

    def run(self, writer: Writer, target: Target, meter: Meter) -> None:
        """Write all. What is finished is written however this ends."""
        texts = self._texts(writer, target, meter)
        results = self._client.classify_iter(self._model, texts, **self._options)
        try:
            for result in results:
                writer.write(self._waiting.popleft(), result)
                self._done += 1
                meter.done()
        except TritextError as error:
            raise self._located(error) from error
        finally:
            writer.flush()

    def _texts(self, writer: Writer, target: Target, meter: Meter) -> Iterator[Any]:
        for item in self._source.rows(meter.read):
            if isinstance(item, Flush):
                yield item  # comes back here when every result so far is written
                writer.flush()
                target.flush()
            else:
                self._waiting.append(item)
                yield item.text if item.pair is None else (item.text, item.pair)

    def _located(self, error: TritextError) -> TritextError:
        """`error` with the place in the source that it is about."""
        items = affected(error)
        rows = list(self._waiting)[items.start - self._done : items.stop - self._done] if items else []
        if not rows:
            return error
        first, last = rows[0].line, rows[-1].line
        where = f"{self._source.unit} {first}" if first == last else f"{self._source.unit}s {first} to {last}"
        return type(error)(f"{error} That is {where} of {self._source.name}.")


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Ctrl-C, and a reader that has seen enough (``| head``), end the command and are no errors."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whatever is still buffered must not fail once more when Python flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
