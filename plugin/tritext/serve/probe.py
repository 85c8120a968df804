"""Asks one model a short text every second, and finds out which of its steps is at fault where it does not answer."""

import re
import threading
import time
from functools import partial
from typing import Final

from tritext.errors import ServeError
from tritext.repository import BuiltModel
from tritext.serve import ensemble
from tritext.serve.chain import Chain
from tritext.serve.healer import Healer
from tritext.serve.remote import Arrays, Silence
from tritext.serve.server import Server
from tritext.serve.status import Status
from tritext.serve.steps import step_processes

_PATIENCE: Final = 2.0  # seconds for an answer
_STEP_PATIENCE: Final = 1.0  # seconds for one step's
_IDLE: Final = 0.05  # of one core: who takes less while a request waits does not work on it
# Of the time: a thread that wants a processor for so long is not given one. Who hangs may still look 200 times a second
# whether Python's lock is free.
_STARVED: Final = 0.7
_ENDLESS: Final = 60.0  # seconds that a step may compute without finishing a batch

# An answer, and the refusal of one that means that the server is busy: it is alive.
_BUSY: Final = re.compile(r"(StatusCode\.UNAVAILABLE|HTTP 503).*Try again in")
_UNHEALTHY: Final = re.compile(r"Stub process '(?P<step>.+?)_\d+_\d+' is not healthy")


class Probe:
    """Of one model, in a thread of its own until `stop`."""

    def __init__(self, server: Server, healer: Healer, status: Status, model: BuiltModel, *, every: float) -> None:
        self._server, self._healer, self._status, self._model, self._every = server, healer, status, model, every
        self._steps = ensemble.steps(model)
        self._sample = ensemble.sample_arrays(model)
        self._stopping = threading.Event()
        self._chain: Chain | None = None
        self._silent_since: float | None = None
        self._calls: dict[str, int] = {}
        self.has_answered = True  # when it was last asked, be it with an error
        threading.Thread(target=self._run, name=f"probe {model.name}", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if not self._healer.is_busy_with(self._model):
                try:
                    self._ask()
                except Exception as error:  # noqa: BLE001 - a model that nobody asks must not pass for one that answers
                    self._status.down(self._model.name, f"it cannot be asked: {error}")
            # Not before the first: who hangs before it has ever answered cannot be found out.
            self._stopping.wait(self._every)

    def _ask(self) -> None:
        before, begun = self._work(), time.monotonic()
        try:
            self._server.remote.infer(self._model.name, self._sample, timeout=_PATIENCE)
            if self._chain is None:
                self._chain = Chain.walk(self._model, partial(self._server.remote.infer, timeout=_PATIENCE))
        except Silence:
            self._suspect(before, begun)
        except ServeError as error:
            self._judge(str(error), begun)
        else:
            self._note_answer(begun)

    def _is_stale(self, begun: float) -> bool:
        """Whether what was found since `begun` may be about a process that has been replaced meanwhile."""
        return self._stopping.is_set() or self._healer.has_touched(self._model, begun)

    def _note_answer(self, begun: float) -> None:
        self.has_answered, self._silent_since = True, None
        if not self._is_stale(begun):
            self._status.up(self._model.name)

    def _judge(self, error: str, begun: float) -> None:
        """It answers with an error."""
        if _BUSY.search(error):
            self._note_answer(begun)
            return
        self.has_answered = "failed to connect" not in error
        if self._is_stale(begun):
            return
        self._status.down(self._model.name, error)
        if (found := _UNHEALTHY.search(error)) and found["step"] in self._steps:
            self._heal(found["step"], "unhealthy", "does not answer Triton")

    def _suspect(self, before: dict[str, float], asked: float) -> None:
        """It says nothing. Who computes may be slow; who does not, and holds a request, hangs."""
        self.has_answered = False
        if self._is_stale(asked):
            return
        begun = self._silent_since = self._silent_since or asked
        worked = {step: seconds - before.get(step, seconds) for step, seconds in self._work().items()}
        busy = {step for step, seconds in worked.items() if seconds > _IDLE * _PATIENCE}
        if step := self._silent_step(busy):
            self._heal(step, "hung", "hangs")
        elif busy:
            self._suspect_endless(max(busy, key=lambda step: worked[step]), begun)
        else:
            self._status.down(self._model.name, f"no answer within {_PATIENCE:g} s")

    def _suspect_endless(self, step: str, begun: float) -> None:
        calls = self._server.remote.calls(step)
        if calls != self._calls.setdefault(step, calls):
            self._calls, self._silent_since = {}, None  # it finishes what it begins
        elif time.monotonic() > begun + _ENDLESS:
            self._heal(step, "endless", f"has computed for {_ENDLESS:g} s and finished nothing")

    def _silent_step(self, busy: set[str]) -> str | None:
        """The first step but those that are `busy` that finishes nothing when it is asked by itself.

        None where there is no such step, or Triton itself does not answer.
        """
        if self._chain is None or not self._server.remote.alive(timeout=_STEP_PATIENCE):
            return None
        for step, inputs in self._chain.inputs.items():
            if step not in busy and self._is_silent(step, inputs):
                return step
        return None

    def _is_silent(self, step: str, inputs: Arrays) -> bool:
        calls, wanted = self._server.remote.calls(step), self._wanted(step)
        try:
            self._server.remote.infer(step, inputs, timeout=_STEP_PATIENCE)
        except Silence:
            is_starved = any(
                seconds - wanted.get(thread, seconds) > _STARVED * _STEP_PATIENCE
                for thread, seconds in self._wanted(step).items()
            )
            return not is_starved and self._server.remote.calls(step) == calls
        except ServeError:
            pass  # an error is an answer
        return False

    def _heal(self, step: str, cause: str, what: str) -> None:
        self._silent_since, self._calls = None, {}
        self._healer.heal(self._model, step, cause, what)

    def _wanted(self, step: str) -> dict[int, float]:
        """Processor seconds that each of its threads took or waited for so far."""
        return {
            thread: seconds
            for process in step_processes(self._server.segments)
            if process.step == step
            for thread, seconds in process.wanted().items()
        }

    def _work(self) -> dict[str, float]:
        """Processor seconds of each step so far."""
        work: dict[str, float] = {}
        for process in step_processes(self._server.segments):
            if process.step in self._steps:
                work[process.step] = work.get(process.step, 0.0) + process.seconds
        return work
