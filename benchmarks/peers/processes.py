"""A server's processes: started, waited for, watched, ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchmarks.processes import family, processor_seconds
from tritext.serve import guardian

# Ends with us, however we end.
_TIED: Final = (sys.executable, "-I", "-S", guardian.__file__, "launch")
PATIENCE: Final = 15.0  # seconds from SIGTERM to SIGKILL


class ServerFailed(Exception):
    """A server that did not start or did not answer; the message says why."""


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Running:
    """A server's process and all below it; a context manager that ends them. Their output goes to `log`."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                [*_TIED, str(os.getpid()), "0", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def raise_if_ended(self) -> None:
        """ServerFailed, with the end of its log, where it runs no more."""
        if self._popen.poll() is not None:
            raise ServerFailed(f"it ended with status {self._popen.returncode}: {self.reason()}")

    def reason(self) -> str:
        """The last line of its output."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it printed nothing"

    def pids(self) -> list[int]:
        """Its own process and all its descendants."""
        return family(self._popen.pid)

    def pause(self) -> None:
        """Stop all its processes until `resume`: what they would do while nobody asks them is not done."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def cpu_seconds(self) -> float:
        """What its processes have used so far, user and system."""
        return sum(map(processor_seconds, self.pids()))

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for whatever is left."""
        self.resume()
        pids = self.pids()
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(PATIENCE)
        for pid in pids:
            if pid == self._popen.pid or _session(pid) in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._popen.wait()


def _session(pid: int) -> int:
    """0 where it has ended."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
