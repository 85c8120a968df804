"""The steps of long work on a terminal: a spinner or a bar while one runs, a line with its time when it is done."""

import time
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

_CHECK: Final = "[green]✓[/]"


class TerminalProgress:
    """Listens to long work; plain lines where stderr is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._started = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if error is not None and self._task is not None:
            self._console.print(f"[red]✗[/] {self._title}")

    def step(self, title: str, total: int | None = None) -> None:
        """Open a step."""
        self._title, self._started = title, time.monotonic()
        self._task = self._bars.add_task(title, total=total)

    def advance(self) -> None:
        """Move the step's bar by one."""
        if self._task is not None:
            self._bars.advance(self._task)

    def tell(self, line: str) -> None:
        """Print a line."""
        self._console.print(escape(line), highlight=False, soft_wrap=True)

    def done(self, note: str = "") -> None:
        """Close the step and print its line."""
        if self._task is None:
            return
        self._bars.remove_task(self._task)
        self._task = None
        seconds = time.monotonic() - self._started
        self._console.print(
            f"{_CHECK} {self._title:<34} [dim]{seconds:5.1f} s[/]  {escape(note)}", highlight=False, soft_wrap=True
        )
