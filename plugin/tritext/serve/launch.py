"""Ends launches of steps that Triton would wait for without end.

Triton's Python backend (2.51) makes the shared memory of a step, starts its process and waits for its first message,
for however long. A process that is killed before, as the kernel does where memory runs out, leaves that load, and all
that is asked of this step after it, waiting for ever. So another process is started in the same shared memory. It says
that first word and is ended again, and Triton, which now looks after what it started, fails the load as it should. (In
one of ten such deaths that were tried the process took a lock of that memory with it: Triton then ends, which is seen.)

Not at a server's own start, for which there is a time.
"""

import logging
import subprocess
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Self

from tritext.serve.steps import children, segments_of_steps, step_processes
from tritext.stages.told import ACCESS_LOG

_EVERY: Final = 0.25  # seconds
_LOOKS: Final = 3  # in a row at which a launch must have no process, or a stopped one
_WORD: Final = 1.0  # seconds that another one has to speak: Python starts in them, or in those of the next try

_log: Final = logging.getLogger("tritext")


@dataclass(frozen=True, slots=True)
class Command:
    """What Triton starts a step's process with: its `words`, of which the second to fourth from the end are its own."""

    words: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path

    @classmethod
    def found(cls, segments: str, folder: Path) -> Self | None:
        """As it is with any step of the server that runs in `folder`; None where it has none."""
        for process in step_processes(segments):
            if len(words := process.arguments()) > 4:
                environment = {name: value for name, value in process.environment().items() if name != ACCESS_LOG}
                return cls(tuple(words), environment, folder)
        return None

    def start(self, step: str, segment: str) -> "subprocess.Popen[bytes]":
        """Such a process for `step` in that `segment`; OSError where there can be none."""
        program, _, _, *rest, _, python = self.words
        return subprocess.Popen(
            [program, f"./{step}/1/model.py", segment, *rest, f"{step}_0_0", python],
            env=self.environment, cwd=self.folder, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


class Launch:
    """The launch of `step` by the process `triton`: a context manager around what makes Triton load it.

    `segments` is how the names of the server's shared memory begin; steps are started with `command`.
    """

    _spoken_for: ClassVar[set[str]] = set()  # segments, by any launch: of two at a time one cannot tell whose they are
    _speaking: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, segments: str, triton: int, step: str, command: Command | None) -> None:
        self._segments, self._triton, self._step, self._command = segments, triton, step, command
        self._looks: Counter[str] = Counter()
        self._over = threading.Event()
        self.has_spoken = False  # whether another process was started, here for `step`

    def __enter__(self) -> Self:
        self._others = segments_of_steps(self._segments)
        self._thread = threading.Thread(target=self._run, name=f"launch {self._step}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_EVERY):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - nobody else ends a launch that hangs: look again
                _log.info("The launch of %s cannot be watched now: %s", self._step, error)

    def _look(self) -> None:
        """Find segments whose process is dead or stopped, now and at some looks before."""
        living = {process.segment: process for process in step_processes(self._segments)}
        self._others |= {segment for segment, process in living.items() if process.step != self._step}
        # Between fork and exec a process has not got its own name yet.
        unnamed = children(self._triton) - {process.pid for process in living.values()}
        for segment in segments_of_steps(self._segments) - self._others:
            process = living.get(segment)
            if unnamed or (process and not process.is_stopped):
                self._looks[segment] = 0
                continue
            self._looks[segment] += 1
            if self._looks[segment] < _LOOKS:
                continue
            if process:
                process.kill()
            else:
                self._speak_for(segment)

    def _speak_for(self, segment: str) -> None:
        """Start another process in that `segment`, where no other launch does."""
        with self._speaking:
            if self._command is None or segment in self._spoken_for:
                return
            self._spoken_for.add(segment)
        self.has_spoken = True
        try:
            process = self._command.start(self._step, segment)
        except OSError:
            return  # what killed the first strikes again: the next look tries again
        else:
            self._over.wait(_WORD)
            process.kill()
            process.wait()
        finally:
            self._spoken_for.discard(segment)
