"""Brings back one step of a model while the rest of the server goes on.

Triton (2.51) neither restarts a dead Python process nor says that it is dead. Told to unload the step and to load it
at once, it starts a new one, and the ensemble, which knows its steps by name, goes on with that: 0.2 to 0.8 seconds.
"""

import threading
import time
from collections import defaultdict, deque
from typing import Final

from tritext.errors import ServeError
from tritext.repository import BuiltModel
from tritext.serve import ensemble
from tritext.serve.remote import Silence
from tritext.serve.server import Server
from tritext.serve.status import Status, Tell
from tritext.serve.steps import processes_of

_MEMORY: Final = 60.0  # seconds for which an end is remembered
_FREE: Final = 2  # restarts within that time that come at once
_FIRST: Final = 0.5  # seconds before the next one; doubled for each that follows
_LONGEST: Final = 30.0
_LOAD: Final = 120.0
_SETTLE: Final = 5.0  # seconds for the first answer after a restart


class Healer:
    """One restart of a step at a time, each in a thread of its own, at growing distances where it keeps dying."""

    def __init__(self, server: Server, status: Status, tell: Tell) -> None:
        self._server, self._status, self._tell = server, status, tell
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._last: dict[str, float] = {}  # when something of a model was last brought back (monotonic)
        self._ends: defaultdict[str, deque[float]] = defaultdict(deque)
        self._stopping = threading.Event()
        self.stuck: str | None = None  # a step that Triton neither loads nor lets go of

    def stop(self) -> None:
        """Begin nothing any more."""
        self._stopping.set()

    def is_busy_with(self, model: BuiltModel) -> bool:
        """Whether a step of `model` is being brought back."""
        with self._lock:
            return not self._busy.isdisjoint(ensemble.steps(model))

    def has_touched(self, model: BuiltModel, since: float) -> bool:
        """Whether a step of `model` is being brought back, or was after `since` (monotonic)."""
        return self.is_busy_with(model) or self._last.get(model.name, since) > since

    def heal(self, model: BuiltModel, step: str, cause: str, what: str) -> None:
        """Bring `step` of `model` back, which `what`, in words; `cause` is one word for it. Returns at once."""
        with self._lock:
            if step in self._busy or self._stopping.is_set():
                return
            self._busy.add(step)
        threading.Thread(target=self._run, args=(model, step, cause, what), name=f"heal {step}", daemon=True).start()

    def _run(self, model: BuiltModel, step: str, cause: str, what: str) -> None:
        try:
            self._bring_back(model, step, cause, what)
        except ServeError as error:
            if not self._stopping.is_set():
                self._status.down(model.name, f"{step} {what} and cannot be brought back: {error}")
                self._tell(f"{model.name}: {step} {what} and cannot be brought back: {error}")
                if isinstance(error, Silence) and not processes_of(step, self._server.segments):
                    self.stuck = step
        finally:
            with self._lock:
                self._busy.discard(step)
                self._last[model.name] = time.monotonic()

    def _bring_back(self, model: BuiltModel, step: str, cause: str, what: str) -> None:
        begun, segments = time.monotonic(), self._server.segments
        self._status.down(model.name, f"{step} {what} and is being brought back")
        if delay := self._delay(step):
            times = f"It is number {len(self._ends[step])} within a minute"
            self._tell(f"{model.name}: {step} {what}. {times}, so the step is brought back in {delay:g} s.")
            if self._stopping.wait(delay):
                return
        if model not in self._server.models or segments != self._server.segments:
            return  # another build answers by now, or another Triton
        self._restart(step)
        if model not in self._server.models:
            self._server.remote.start_unload(step)
            return
        answered = self._answers(model)
        self._status.restarted(model.name, step, cause)
        after = "" if answered else ", but the model still does not answer"
        self._tell(f"{model.name}: {step} {what}. It was brought back in {time.monotonic() - begun:.1f} s{after}.")

    def _delay(self, step: str) -> float:
        """Seconds to wait before the next try, by how often it ended of late."""
        now, ends = time.monotonic(), self._ends[step]
        ends.append(now)
        while ends[0] < now - _MEMORY:
            ends.popleft()
        return min(_LONGEST, _FIRST * 2 ** (len(ends) - _FREE - 1)) if len(ends) > _FREE else 0.0

    def _restart(self, step: str) -> None:
        with self._server.expecting_errors():
            for process in processes_of(step, self._server.segments):
                process.kill()  # Triton would wait for one that is stuck
            self._server.remote.start_unload(step)
            self._server.load(step, _LOAD)

    def _answers(self, model: BuiltModel) -> bool:
        """Whether the whole model answers within some seconds; its status says so then."""
        deadline = time.monotonic() + _SETTLE
        while not self._stopping.is_set():
            if self._server.answers(model, timeout=max(0.5, deadline - time.monotonic())):
                self._status.up(model.name)
                return True
            if time.monotonic() > deadline:
                return False
            self._stopping.wait(0.05)
        return False
