"""What must hold even when we are killed with -9. Runs as a script, so it imports nothing but the standard library.

``guardian.py launch PARENT NICE COMMAND...`` becomes COMMAND, which stands back by NICE for whoever started it, and
gets a SIGTERM when its parent dies.
``guardian.py watch PARENT SERVER SEGMENTS`` sleeps until its parent dies, gives the server a few seconds to end
by itself and kills what is left of it then: Triton waits for ever for a step that is stuck.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PATIENCE = 4.0  # seconds, more than Triton's own exit timeout
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the Python backend keeps its segments


def launch(parent: int, nice: int, command: list[str]) -> None:
    """Become `command`, tied to the life of `parent`."""
    if _tie_to(parent):
        stand_back(parent, nice)
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def stand_back(parent: int, nice: int) -> None:
    """Stand back by `nice` for `parent`, as a process and, which counts instead between sessions, as a session."""
    os.nice(nice)
    with contextlib.suppress(OSError):  # a kernel that does not group by sessions: sched(7)
        Path("/proc/self/autogroup").write_text(str(min(19, group_nice(parent) + nice)))


def group_nice(pid: int, processes: Path = Path("/proc")) -> int:
    """The niceness of the session of `pid`: 0 for one that the kernel has not grouped, whose file is empty."""
    words = (processes / str(pid) / "autogroup").read_text().split()  # "/autogroup-25 nice 5"
    return int(words[-1]) if words else 0


def watch(parent: int, server: int, segments: str) -> None:
    """Outlive `parent` by as long as it takes until nothing is left of the server that it started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if _tie_to(parent):
        signal.sigwait({signal.SIGTERM})
    deadline = time.monotonic() + PATIENCE
    while server in members(segments) and time.monotonic() < deadline:
        time.sleep(0.1)
    wipe(segments)


def wipe(segments: str, patience: float = 5.0) -> None:
    """Kill every process of a server and remove its shared memory, all known by the name of its `segments`."""
    deadline = time.monotonic() + patience
    while (pids := members(segments)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    for segment in SHARED_MEMORY.glob(f"{segments}*"):
        segment.unlink(missing_ok=True)


def members(segments: str) -> list[int]:
    """The processes of the server whose shared memory has names that begin so: it stands in their command lines.

    A number of a process or group may belong to somebody else by now; this name never does.
    """
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has gone
            if segments.encode() in cmdline.read_bytes() and int(cmdline.parent.name) != os.getpid():
                found.append(int(cmdline.parent.name))
    return found


def _tie_to(parent: int) -> bool:
    """Get a SIGTERM when the parent dies; whether it is still there."""
    import ctypes  # slow, and only a script needs it

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    return os.getppid() == parent


def main(mode: str, parent: str, *rest: str) -> None:
    """Run as a script."""
    if mode == "launch":
        launch(int(parent), int(rest[0]), list(rest[1:]))
    else:
        watch(int(parent), int(rest[0]), rest[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
