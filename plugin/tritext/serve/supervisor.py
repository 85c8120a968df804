"""Watches a running server: processes ten times a second, answers once a second, and has healed what is broken."""

import threading
import time
from collections import Counter
from collections.abc import Container
from types import TracebackType
from typing import Final, Self

from tritext.errors import ServeError, TritextError
from tritext.repository import BuiltModel
from tritext.serve import ensemble
from tritext.serve.guardian import SHARED_MEMORY
from tritext.serve.healer import Healer
from tritext.serve.probe import Probe
from tritext.serve.server import Server
from tritext.serve.status import RESTARTS, Status, Tell
from tritext.serve.steps import StepProcess, memory_of_machine, orphans, step_processes

_TICK: Final = 0.1
_PROBE_EVERY: Final = 1.0
_STOPPED_FOR: Final = 0.5  # seconds that a process may be stopped, as a debugger does in passing
_DEAF_FOR: Final = 10.0  # seconds that Triton may say nothing at all
_SHARE_OF_MEMORY: Final = 0.5  # of the machine's, for one step's process
_BURIAL: Final = 5.0  # seconds that Triton has to remove a dead step's shared memory itself
_JOIN: Final = 5.0  # seconds for the thread to end what it is at
_SIGNALS_WITHIN: Final = 0.2  # seconds
_RELAUNCHES: Final = 5  # in a row that fail, and we give up


class Supervisor:
    """Keeps `server`, which is ready, answering: a context manager, from whose `wait` one only comes back in trouble.

    `tell` gets a sentence for whatever is done. `step_memory` is the most bytes that a step's process may hold: half
    of the machine's memory where None.
    """

    def __init__(self, server: Server, tell: Tell, *, step_memory: int | None = None) -> None:
        self._server, self._tell = server, tell
        self._step_memory = step_memory or int(memory_of_machine() * _SHARE_OF_MEMORY)
        self.status = Status()
        self.healer = Healer(server, self.status, tell)
        self._stopping = threading.Event()
        self._over = threading.Event()
        self._failure: ServeError | None = None
        self._lock = threading.Lock()
        self._probes: dict[str, Probe] = {}
        self._steps: dict[str, BuiltModel] = {}  # of the models that are watched, by Triton name
        self._wanted: Counter[str] = Counter()  # how many processes each of them has
        self._stopped_since: dict[int, float] = {}
        self._processes: list[StepProcess] = []
        self._orphans: set[str] = set()  # what the dead left in shared memory, as last seen
        self._burial = 0.0  # when that is looked at next
        self._deaf_since: float | None = None

    def __enter__(self) -> Self:
        for model in self._server.models:
            self.adopt(model)
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self.healer.stop()
        for probe in list(self._probes.values()):
            probe.stop()
        self._thread.join(timeout=_JOIN)

    def wait(self) -> None:
        """Wait until nothing more can be done: ServeError says why."""
        # Not for ever at once: a signal that the kernel gives to another thread is handled when this one wakes.
        while not self._over.wait(_SIGNALS_WITHIN):
            pass
        raise self._failure or ServeError("The supervisor has ended.")

    def adopt(self, model: BuiltModel) -> None:
        """Watch `model`, which answers, in the place of any other build of it."""
        self.abandon(model.name)
        self.status.serve(model.name, model.build)
        found = Counter(process.step for process in step_processes(self._server.segments))
        mine = ensemble.steps(model)
        with self._lock:
            self._steps = {**self._steps, **dict.fromkeys(mine, model)}
            self._wanted = self._wanted + Counter({step: found[step] for step in mine if found[step]})
        self._probes[model.name] = Probe(self._server, self.healer, self.status, model, every=_PROBE_EVERY)

    def abandon(self, name: str) -> None:
        """Watch the model `name` no more."""
        with self._lock:
            self._steps = {step: model for step, model in self._steps.items() if model.name != name}
            self._wanted = Counter({step: n for step, n in self._wanted.items() if step in self._steps})
        if probe := self._probes.pop(name, None):
            probe.stop()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(_TICK):
                self._look()
        except ServeError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - a server that nobody watches must not pass for a watched one
            self._failure = ServeError(f"The supervisor failed: {type(error).__name__}: {error}.")
        finally:
            self._over.set()

    def _look(self) -> None:
        if how := self._server.ended:
            self._revive(f"Triton ended by itself ({how})", "ended")
        elif self._is_deaf():
            self._revive(f"Triton has not answered for {_DEAF_FOR:g} s", "deaf")
        elif step := self.healer.stuck:
            self._revive(f"Triton neither loads {step} nor lets go of it", "stuck")
        else:
            self._look_at_steps()

    def _is_deaf(self) -> bool:
        """Whether no model has answered for long, and Triton does not either. Dead ports accept connections too."""
        probes = list(self._probes.values())
        if any(probe.has_answered for probe in probes) or not probes:
            self._deaf_since = None
            return False
        now = time.monotonic()
        if self._deaf_since is None:
            self._deaf_since = now
        if now < self._deaf_since + _DEAF_FOR / 2:
            return False
        if self._server.remote.alive(timeout=_DEAF_FOR / 5):
            self._deaf_since = None
            return False
        return now > self._deaf_since + _DEAF_FOR

    def _revive(self, what: str, cause: str) -> None:
        """Start Triton again; ServeError where that fails time and again."""
        if self._stopping.is_set():
            return
        self.status.outage(f"{what} and is started again")
        self._tell(f"{what}. It is started again.")
        for attempt in range(_RELAUNCHES):
            begun = time.monotonic()
            try:
                self._server.relaunch()
                break
            except TritextError as error:
                if self._stopping.is_set():
                    return
                self._tell(f"It does not start: {error}")
                if attempt == _RELAUNCHES - 1:
                    raise ServeError(f"Triton cannot be started again. {error}") from error
                if self._stopping.wait(2.0**attempt):
                    return
        self._deaf_since = self.healer.stuck = None
        self._processes = []
        self.status.count(RESTARTS, model="", step="triton", cause=cause)
        self.status.outage(None)
        self._tell(f"Triton answers again after {time.monotonic() - begun:.1f} s.")

    def _look_at_steps(self) -> None:
        """Find what is dead, stopped or too big; what hangs, the probes find."""
        with self._lock:
            steps, wanted = self._steps, self._wanted
        living = [process for process in self._processes if not process.is_gone and process.step in steps]
        if Counter(process.step for process in living) != wanted:
            gone = [process for process in self._processes if process.is_gone]
            ends = {process.step: process.how_it_ended() for process in gone}
            living = self._scan(steps)
            counts = Counter(process.step for process in living)
            for step, count in wanted.items():
                if counts[step] < count:
                    self.healer.heal(steps[step], step, "died", ends.get(step, "has lost its process"))
        self._clear_up()
        for process in living:
            self._judge(steps[process.step], process)

    def _clear_up(self) -> None:
        """Remove the shared memory of those that have been dead for a while, should Triton have left it."""
        if (now := time.monotonic()) < self._burial:
            return
        self._burial, found = now + _BURIAL, orphans(self._server.segments)
        if not self._server.is_loading:  # else it may be that of a process to come
            for segment in found & self._orphans:
                (SHARED_MEMORY / segment).unlink(missing_ok=True)
        self._orphans = found

    def _scan(self, steps: Container[str]) -> list[StepProcess]:
        """Look for the processes of `steps` anew."""
        found = step_processes(self._server.segments)
        self._processes = [process for process in found if process.step in steps and not process.is_gone]
        for process in self._processes:
            process.volunteer()
        return self._processes

    def _judge(self, model: BuiltModel, process: StepProcess) -> None:
        if process.is_stopped:
            since = self._stopped_since.setdefault(process.pid, time.monotonic())
            if time.monotonic() > since + _STOPPED_FOR:
                self.healer.heal(model, process.step, "stopped", "was stopped by a signal")
            return
        self._stopped_since.pop(process.pid, None)
        if (held := process.memory) > self._step_memory:
            what = f"held {held / 1e9:.1f} GB of memory, where {self._step_memory / 1e9:.1f} GB are allowed"
            self.healer.heal(model, process.step, "memory", what)
