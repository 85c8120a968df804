"""The processes of the steps: which there are, what state they are in, and how one ended."""

import contextlib
import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritext.serve.guardian import SHARED_MEMORY, members

_STUB: Final = "triton_python_backend_stub"
_UUID: Final = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
# Of /proc/PID/stat behind the name, which may hold anything: proc_pid_stat(5), fields 3, 4, 6, 14, 15 and 52.
_STATE, _PARENT, _SESSION, _USER, _SYSTEM, _EXIT = 0, 1, 3, 11, 12, 49
# As if it held so many thousandths of all memory more than it does: whoever holds far more is still chosen first.
_VOLUNTEER: Final = "300"
_STOPPED: Final = frozenset("Tt")
_GONE: Final = frozenset("ZX")


@dataclass(frozen=True, slots=True)
class StepProcess:
    """One process of the step `step`, which may have several. It may end at any time: nothing here raises then."""

    pid: int
    step: str
    segment: str  # the name of the shared memory in which it gets its requests

    @property
    def is_gone(self) -> bool:
        """Whether it has ended, also where its parent has not noticed yet."""
        stat = self._stat()
        return not stat or stat[_STATE] in _GONE

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a debugger holds it."""
        stat = self._stat()
        return bool(stat) and stat[_STATE] in _STOPPED

    @property
    def seconds(self) -> float:
        """Processor time that it has taken so far."""
        stat = self._stat()
        return (int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS if stat else 0.0

    def wanted(self) -> dict[int, float]:
        """Processor time in seconds that each of its threads has taken or waited for so far.

        Who is starved by others wants to work, and does not. 0.0 where the kernel does not count (schedstat).
        """
        found: dict[int, float] = {}
        with contextlib.suppress(OSError):
            for thread in (self._folder / "task").iterdir():
                with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
                    taken, waited, _ = (thread / "schedstat").read_text().split()
                    found[int(thread.name)] = (int(taken) + int(waited)) / 1e9
        return found

    @property
    def memory(self) -> int:
        """Bytes of its own that it holds in memory."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            _, resident, shared, *_ = (self._folder / "statm").read_text().split()
            return (int(resident) - int(shared)) * _PAGE
        return 0

    def how_it_ended(self) -> str:
        """In words, as far as its parent, Triton, has left it there to be read."""
        stat = self._stat()
        code = int(stat[_EXIT]) if len(stat) > _EXIT else 0
        return f"was killed by signal {code & 0x7F}" if code & 0x7F else "has died"

    def arguments(self) -> list[str]:
        """Its command line; nothing where it has gone."""
        return _words(self._folder / "cmdline")

    def environment(self) -> dict[str, str]:
        """The environment that it was started with; nothing where it has gone."""
        pairs = (word.partition("=") for word in _words(self._folder / "environ"))
        return {name: value for name, _, value in pairs}

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def volunteer(self) -> None:
        """Where memory runs out, have the kernel choose it rather than Triton: it can be brought back alone."""
        with contextlib.suppress(OSError):
            (self._folder / "oom_score_adj").write_text(_VOLUNTEER)

    @property
    def _folder(self) -> Path:
        return Path("/proc", str(self.pid))

    def _stat(self) -> list[str]:
        return _stat(self._folder)


def step_processes(segments: str) -> list[StepProcess]:
    """Those of the server whose shared memory has names that begin with `segments`."""
    found = []
    for pid in members(segments):
        program, *arguments = _words(Path(f"/proc/{pid}/cmdline")) or [""]
        if program.endswith(_STUB):  # ./spam_encoder_3f9c01aa/1/model.py tritext_…
            found.append(StepProcess(pid, Path(arguments[0]).parent.parent.name, arguments[1]))
    return found


def processes_of(step: str, segments: str) -> list[StepProcess]:
    """Those of them that run `step`."""
    return [process for process in step_processes(segments) if process.step == step]


def segments_of_steps(segments: str) -> set[str]:
    """Those of the server's shared memory, whose names begin with `segments`, that were made for a step each."""
    own = re.compile(re.escape(segments) + _UUID)
    return {path.name for path in SHARED_MEMORY.iterdir() if own.fullmatch(path.name)}


def orphans(segments: str) -> set[str]:
    """Those of them that no step has: its process died, or has not been started yet."""
    return segments_of_steps(segments) - {process.segment for process in step_processes(segments)}


def children(parent: int) -> set[int]:
    """The processes that `parent` started and that live."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        stat = _stat(folder)
        if stat and int(stat[_PARENT]) == parent and stat[_STATE] not in _GONE:
            found.add(int(folder.name))
    return found


def reap(session: int) -> None:
    """Take leave of those that have ended in that session and became our children when their parent did.

    So it is for whoever is process 1 of a container: they would stay for ever otherwise, and count as processes.
    """
    for folder in Path("/proc").glob("[0-9]*"):
        stat, pid = _stat(folder), int(folder.name)
        if stat and int(stat[_PARENT]) == os.getpid() and int(stat[_SESSION]) == session and stat[_STATE] in _GONE:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _stat(folder: Path) -> list[str]:
    """Of a process's `folder`; nothing where it has gone."""
    try:
        return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    """What a file of /proc has, each ended by a zero; nothing where its process has gone."""
    try:
        return [os.fsdecode(word) for word in path.read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []


def memory_of_machine() -> int:
    """Bytes that there are for this process: the machine's, or its container's where that has a limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # the first is the word max where there is no limit
            limits.append(int(Path(path).read_text()))
    return min(limits)
