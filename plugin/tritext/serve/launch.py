"""Ends launches of steps that Triton would wait for without end.

Triton's Python backend (2.51) makes the shared memory of a step, starts its process and waits for its first message,
for however long. A process that is killed before, as the kernel does where memory runs out, leaves that load, and all
that is asked of this step after it, waiting for ever. So another process is started in the same shared memory. It says
that first word and is ended again, and Triton, which now looks after what it started, fails the load as it should. (In
one of ten such deaths that were tried the process took a lock of that memory with it: Triton then ends, which is seen.)
"""

import subprocess
import threading
from collections import Counter
from types import TracebackType
from typing import Final, Self

from tritext.serve.steps import StepProcess, children, segments_of_steps, step_processes
from tritext.stages.told import ACCESS_LOG

_EVERY: Final = 0.25  # seconds
_LOOKS: Final = 3  # in a row at which a launch must have no process, or a stopped one
_WORD: Final = 1.0  # seconds that another one has to speak: Python starts in them, or in those of the next try


class Launch:
    """The launch of `step` by the process `triton`: a context manager around what makes Triton load it.

    `segments` is how the names of the server's shared memory begin.
    """

    def __init__(self, segments: str, triton: int, step: str) -> None:
        self._segments, self._triton, self._step = segments, triton, step
        self._looks: Counter[str] = Counter()
        self._over = threading.Event()
        self.was_dead = False  # whether its process died before it had said anything

    def __enter__(self) -> Self:
        self._before = segments_of_steps(self._segments)
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
            self._look()

    def _look(self) -> None:
        """Find segments whose process is dead or stopped, now and at some looks before."""
        living = {process.segment: process for process in step_processes(self._segments)}
        # Between fork and exec a process has not got its own name yet.
        unnamed = children(self._triton) - {process.pid for process in living.values()}
        for segment in segments_of_steps(self._segments) - self._before:
            process = living.get(segment)
            if unnamed or (process and not process.is_stopped):
                self._looks[segment] = 0
                continue
            self._looks[segment] += 1
            if self._looks[segment] < _LOOKS:
                continue
            if process:
                process.kill()
            elif living:
                self._speak_for(segment, next(iter(living.values())))

    def _speak_for(self, segment: str, other: StepProcess) -> None:
        """Start what `other` step runs, as this step and in its `segment`."""
        self.was_dead = True
        program, _, _, *rest, _, python = other.arguments() or [""] * 5
        line = [program, f"./{self._step}/1/model.py", segment, *rest, f"{self._step}_0_0", python]
        told = {name: value for name, value in other.environment().items() if name != ACCESS_LOG}
        try:
            process = subprocess.Popen(
                line, env=told, cwd=f"/proc/{other.pid}/cwd", start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            return  # the other has gone, or what killed the first strikes again: the next look tries again
        self._over.wait(_WORD)
        process.kill()
        process.wait()
