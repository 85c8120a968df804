"""One tritonserver process and its stubs: started so that none can outlive us, ended so that none is left."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from tritext.errors import ServeError
from tritext.serve import guardian
from tritext.serve.log import Log
from tritext.serve.steps import reap
from tritext.stages.told import ACCESS_LOG

_GUARDIAN: Final = (sys.executable, "-I", "-S", guardian.__file__)


class Process:
    """A child in a session of its own, so that a terminal's Ctrl-C reaches only us.

    The kernel's death signal is tied to the thread that started the child, so one thread starts it and
    waits for it. Whatever way it ends, its stubs and its shared memory go with it: see guardian.py.

    It stands back by `nice` for us, and so do its stubs: callers are answered, and refused, while it computes.

    What its steps tell for the access log, where `access_log` asks for one, comes through a pipe of its own: Triton
    writes a line of its log and the end of that line one after the other, and what came between would spoil both.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        log: Log,
        segments: str,
        nice: int = 0,
        access_log: bool = False,
    ) -> None:
        self._command = command
        self._environment = environment
        self._folder = folder
        self._log = log
        self._nice, self._access_log = nice, access_log
        self.segments = segments  # how the names of its shared memory begin; part of the command
        self._started = threading.Event()
        self._ended = threading.Event()
        self._failure: OSError | None = None
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; ServeError where that fails."""
        threading.Thread(target=self._live, name="tritonserver", daemon=True).start()
        self._started.wait()
        if self._failure:
            raise ServeError(f"tritonserver cannot be started: {self._failure}.")

    def _live(self) -> None:
        try:
            popen, readers = self._launch()
            watcher = self._spawn("watch", str(popen.pid), self.segments, stdout=subprocess.DEVNULL)
            self._started.set()
            popen.wait()
            watcher.kill()
            watcher.wait()
            guardian.wipe(self.segments)
            reap(popen.pid)
            for reader in readers:
                reader.join(timeout=2)
        except OSError as error:
            self._failure = error
            guardian.wipe(self.segments)
        finally:
            self._started.set()
            self._ended.set()

    def _launch(self) -> tuple[subprocess.Popen[bytes], list[threading.Thread]]:
        """Start the server, and a thread for each pipe that it writes to."""
        told, tell = os.pipe() if self._access_log else (None, None)
        try:
            self.popen = self._spawn("launch", str(self._nice), *self._command, stdout=subprocess.PIPE, tell=tell)
        finally:
            if tell is not None:
                os.close(tell)
        readers = [_reader("tritonserver log", self.popen.stdout, self._log.feed)]
        if told is not None:
            readers.append(_reader("access log", os.fdopen(told, "rb"), self._log.tell))
        return self.popen, readers

    def _spawn(self, mode: str, *arguments: str, stdout: int, tell: int | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*_GUARDIAN, mode, str(os.getpid()), *arguments],
            env={**self._environment, **({} if tell is None else {ACCESS_LOG: str(tell)})},
            pass_fds=() if tell is None else (tell,),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it ended within `timeout` seconds, its stubs and its shared memory with it."""
        return self._ended.wait(timeout)

    def how_it_ended(self) -> str:
        """In words; only once it has ended."""
        code = self.popen.returncode if self.popen else 0
        return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def end(self, patience: float) -> None:
        """SIGTERM, and SIGKILL for whatever is left after `patience` seconds."""
        if self.popen is None or self.ended:
            return
        try:
            if patience > 0:
                self.popen.terminate()
                self.wait(patience)
        finally:
            if not self.ended:
                self.popen.kill()  # the waiting thread does the rest
                self.wait(10)


def _reader(name: str, pipe: IO[bytes] | None, take: Callable[[str], None]) -> threading.Thread:
    """Started; gives `take` each line until nobody can write to `pipe` any more."""

    def read() -> None:
        with pipe or io.BytesIO() as lines:
            for line in lines:
                take(line.decode("utf-8", "replace").rstrip())

    thread = threading.Thread(target=read, name=name, daemon=True)
    thread.start()
    return thread
