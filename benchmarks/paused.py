"""A server in processes of its own that runs only while it is measured, and costs nothing else meanwhile."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from benchmarks.processes import family
from tritext.bench.served import Served
from tritext.engines.turns import TURNS

# Seconds in which what callers have left behind is finished, and then the server's own last questions to its models: a
# step that is stopped within a request may find on waking that a lock of Triton's took too long, and ends.
_SETTLE: Final = 0.5
_LAST_QUESTIONS: Final = 0.1


class Paused:
    """A `tritext serve` in a process of its own, on `cores`; it runs only within `running`."""

    def __init__(self, repository: Path, models: Sequence[str], cores: Sequence[int], turns: str) -> None:
        command = [
            "taskset",
            "-c",
            ",".join(map(str, cores)),
            sys.executable,
            "-c",
            "import tritext.cli as t; t.main()",
        ]
        command += ["serve", str(repository), "--json", *(part for name in models for part in ("--model", name))]
        command += [part for port in ("grpc", "http", "metrics", "health") for part in (f"--{port}-port", "0")]
        self._models, self._command = models, command
        self.served: dict[str, Served] = {}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, TURNS: turns},
            start_new_session=True,  # Ctrl-C is for us, and we end it
        )

    def wait_ready(self) -> None:
        """Wait until it answers, then stop it; SystemExit where it does not start."""
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            raise SystemExit(f"A server did not start. What this says tells why: {shlex.join(self._command)}")
        self.served = {name: Served(json.loads(line)["grpc"], name, 60.0) for name in self._models}
        self._pause()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let it run for the time being."""
        # Children first: a parent would take one that is still stopped for dead.
        _signal(reversed(self._processes()), signal.SIGCONT)
        try:
            yield
        finally:
            time.sleep(_SETTLE)
            self._pause()

    def _pause(self) -> None:
        processes = self._processes()
        _signal(processes[:1], signal.SIGSTOP)  # it asks nothing any more
        time.sleep(_LAST_QUESTIONS)
        _signal(processes[1:], signal.SIGSTOP)

    def end(self) -> None:
        """End it for good."""
        with self.running():
            time.sleep(0.2)  # a signal that meets a process which is waking may go to a thread that is deaf to it
            self.process.terminate()
            try:
                self.process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()  # what it started goes with it

    def _processes(self) -> list[int]:
        """Every process of it, parents first."""
        return family(self.process.pid) if self.process.poll() is None else []


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, number)
