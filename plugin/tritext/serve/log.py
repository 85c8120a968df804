"""Triton's log: what is shown, what is kept, and the lines that say why something failed."""

import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from tritext.serve.access_log import AccessLog
from tritext.serve.log_format import LogFormat, TextFormat, unquote

LogLevel = Literal["error", "warning", "info", "debug"]
LEVELS: Final[tuple[LogLevel, ...]] = ("error", "warning", "info", "debug")

GPU: Final = Path("/dev/nvidiactl")

_LINE: Final = re.compile(r"(?P<severity>[EWIF])\d{4} [\d:.]+ +\d+ (?P<file>[\w./]+):\d+\] *(?P<message>.*)")
_SEVERITY: Final[dict[str, LogLevel]] = {"F": "error", "E": "error", "W": "warning", "I": "info"}
_TABLE: Final = re.compile(r"^\s*($|[|+])")
_HEADING: Final = re.compile(r"^I\d{4} .*\] *$")
_VERBOSE: Final = re.compile(r"^V\d{4} ")

# Said at every start of a healthy server.
_ALWAYS: Final = re.compile(r"ignore version directory 'builds'")
# Said at every start where there is no GPU, some of it as errors.
_WITHOUT_GPU: Final = re.compile(r"CUDA driver version is insufficient|CudaDriverHelper|pinned system memory|NVML|DCGM")

# The model and the reason; the sooner in this list, the nearer to the cause.
_FAILURES: Final = (
    re.compile(r"Failed to preinitialize Python stub: (?P<reason>.*)"),
    re.compile(r"(?P<reason>error while loading shared libraries: .*)"),
    re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<reason>.*)", re.DOTALL),
    re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<reason>.*)", re.DOTALL),
    re.compile(r"Invalid argument: (?P<reason>.*ensemble.*)", re.DOTALL),
    re.compile(r"(?P<reason>Socket '.*' already in use.*|Address already in use)"),
    re.compile(r"creating server: (?P<reason>.*)", re.DOTALL),
)
# After these a start cannot succeed. Triton 2.51 waits for ever after the first two, and seconds after the others.
_FATAL: Final = 4


class Log:
    """Takes Triton's output line by line. Lines at `level` or above go to `sink`, the last ones are kept.

    What the steps tell for the access log goes there too, whatever the level.
    """

    def __init__(self, level: LogLevel, sink: Callable[[str], None], style: LogFormat | None = None) -> None:
        self._style = style or TextFormat()
        self._access = AccessLog()
        self._shown = LEVELS[: LEVELS.index(level) + 1]
        self._sink = sink
        self._lines: deque[str] = deque(maxlen=200)
        self._failures: dict[int, str] = {}
        self._culprits: dict[int, str] = {}
        self._pending: set[str] = set()
        self._lock = threading.Lock()
        self._hushed = 0
        self._usual = (_ALWAYS,) if GPU.exists() else (_ALWAYS, _WITHOUT_GPU)

    def feed(self, line: str) -> None:
        """Take one line."""
        level = self._level(line)
        with self._lock:
            if not (_TABLE.match(line) or _HEADING.match(line) or self._is_usual(line)):
                self._lines.append(line)
            self._note(line)
        if level in self._shown and not self._hushed:
            self._show(self._style.line(line, level))

    def tell(self, line: str) -> None:
        """Take one line of what the steps tell for the access log."""
        for record in self._access.take(line):
            self._show(self._style.access(record))

    def _show(self, line: str | None) -> None:
        if line is not None:
            with contextlib.suppress(OSError, ValueError):  # a closed terminal must not stop the server's log
                self._sink(line)

    @contextlib.contextmanager
    def hushed(self) -> Iterator[None]:
        """Show nothing while the block runs."""
        with self._lock:
            self._hushed += 1
        try:
            yield
        finally:
            with self._lock:
                self._hushed -= 1

    def _level(self, line: str) -> LogLevel:
        """Lines without Triton's mark are tables, or come from a step's Python or the loader."""
        if self._is_usual(line):
            return "info"
        if match := _LINE.match(line):
            return _SEVERITY[match["severity"]]
        if _VERBOSE.match(line):
            return "debug"
        return "info" if _TABLE.match(line) or line.startswith("Signal (") else "warning"

    def _is_usual(self, line: str) -> bool:
        return any(pattern.search(line) for pattern in self._usual)

    def _note(self, line: str) -> None:
        match = _LINE.match(line)
        message = unquote(match["message"]) if match else line
        if loading := re.match(r"loading: (.+):\d+$", message):
            self._pending.add(loading[1])
        elif loaded := re.match(r"successfully loaded '(.+)'", message):
            self._pending.discard(loaded[1])
        for rank, pattern in enumerate(_FAILURES):
            if found := pattern.search(message):
                groups = found.groupdict()
                model = f"{groups['model']}: " if groups.get("model") else ""
                if model:
                    self._culprits.setdefault(rank, groups["model"])
                self._failures.setdefault(rank, f"{model}{_shorten(groups['reason'])}")
                return

    def tail(self, count: int = 20) -> list[str]:
        """The last lines, without tables and what every start says."""
        with self._lock:
            return list(self._lines)[-count:]

    @property
    def reason(self) -> str | None:
        """Why a start failed, as far as the log tells: the line nearest to the cause."""
        with self._lock:
            return self._failures[min(self._failures)] if self._failures else None

    @property
    def culprit(self) -> str | None:
        """The model, or step of one, that the log makes answerable for a start that failed."""
        with self._lock:
            return self._culprits[min(self._culprits)] if self._culprits else None

    @property
    def hopeless(self) -> bool:
        """Whether the log tells of something after which a start cannot succeed."""
        with self._lock:
            return any(rank < _FATAL for rank in self._failures)

    @property
    def pending(self) -> list[str]:
        """Models that are still loading."""
        with self._lock:
            return sorted(self._pending)


def _shorten(reason: str) -> str:
    """One line, without the status code in front and the traceback behind."""
    first = reason.split("\n\nAt:", maxsplit=1)[0].strip(" ;\n")
    return re.sub(r"^(Internal|Invalid argument|Unavailable|Not found): ", "", " ".join(first.split())).rstrip(".")
