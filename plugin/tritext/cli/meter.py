"""The progress of a long classification on a terminal: texts, rate, and time left where the size is known."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text


class _Texts(ProgressColumn):
    def render(self, task: Task) -> Text:
        texts = task.fields["texts"]
        rate = texts / task.elapsed if task.elapsed else 0.0
        return Text(f"{texts:,} texts  {rate:,.0f}/s")


class Meter:
    """Counts what was read (bytes of `total`, None: not known) and done; draws on `console`, None: nowhere."""

    def __init__(self, console: Console | None, total: int | None) -> None:
        self.console = console
        self._bar: Progress | None = None
        if console is not None:
            remaining = (BarColumn(), Remaining(compact=True)) if total is not None else (TimeElapsedColumn(),)
            self._bar = Progress(
                SpinnerColumn(),
                _Texts(),
                *remaining,
                console=console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._bar.add_task("", total=total, texts=0)
        self._texts = 0

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def read(self, size: int) -> None:
        """So many bytes more were read."""
        if self._bar is not None:
            self._bar.advance(self._task, size)

    def done(self) -> None:
        """One more text has its result."""
        self._texts += 1
        if self._bar is not None:
            self._bar.update(self._task, texts=self._texts)
