"""The processes of the steps: which there are, what state they are in, and how one ended."""

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tritext.serve.guardian import SHARED_MEMORY, members

_STUB: Final = "triton_python_backend_stub"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
# Of /proc/PID/stat behind the name, which may hold anything: proc_pid_stat(5), fields 3, 14, 15 and 52.
_STATE, _USER, _SYSTEM, _EXIT = 0, 11, 12, 49
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

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def clear(self) -> None:
        """Remove the shared memory that it left; Triton does not where a process was killed."""
        (SHARED_MEMORY / self.segment).unlink(missing_ok=True)

    def volunteer(self) -> None:
        """Where memory runs out, have the kernel choose it rather than Triton: it can be brought back alone."""
        with contextlib.suppress(OSError):
            (self._folder / "oom_score_adj").write_text(_VOLUNTEER)

    @property
    def _folder(self) -> Path:
        return Path("/proc", str(self.pid))

    def _stat(self) -> list[str]:
        try:
            return (self._folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return []


def step_processes(segments: str) -> list[StepProcess]:
    """Those of the server whose shared memory has names that begin with `segments`."""
    found = []
    for pid in members(segments):
        with contextlib.suppress(OSError):
            program, *arguments = map(os.fsdecode, Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
            if program.endswith(_STUB):  # ./spam_encoder_3f9c01aa/1/model.py tritext_…
                found.append(StepProcess(pid, Path(arguments[0]).parent.parent.name, arguments[1]))
    return found


def memory_of_machine() -> int:
    """Bytes that there are for this process: the machine's, or its container's where that has a limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # the first is the word max where there is no limit
            limits.append(int(Path(path).read_text()))
    return min(limits)
