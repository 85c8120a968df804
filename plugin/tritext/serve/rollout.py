"""Takes new builds into service while requests are answered, and lets go of models that are gone.

A build is committed by a rename (see build/commit.py); whoever serves looks once a second. The steps of a build have
names of their own, so they are loaded beside those that answer, asked for the checkpoint's answers, and only then does
one load of the ensemble's new configuration switch: requests under way finish in the old steps, which are unloaded in
the order in which a request meets them. What is not fit to serve is refused, and what answered goes on.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, Self

from tritext.errors import RepositoryError, ServeError, TritextError
from tritext.naming import ENGINE_ROLE, ROLES, step_name
from tritext.progress import Silent
from tritext.repository import CONFIG, BuiltModel, survey
from tritext.serve import ensemble
from tritext.serve.chain import Chain
from tritext.serve.check import check_engine
from tritext.serve.prepare import prepare
from tritext.serve.selection import Refusal
from tritext.serve.server import Server
from tritext.serve.status import ROLLOUTS, Tell
from tritext.serve.supervisor import Supervisor

_EVERY: Final = 1.0
_LOAD: Final = 300.0  # seconds for each step: an engine may compile
_ANSWER: Final = 30.0  # seconds for the first answers
_COMPLETE: Final = 30.0  # seconds for files that are missing to come: they may be on their way
_HAND_OVER: Final = 0.5  # seconds in which a request passes from one step to the next
_LAST_SWITCH: Final = 10.0  # seconds that a switch may take which is under way when we have to stop
_FINISH: Final = 120.0  # seconds for the last requests of an old build
_ALIVE: Final = 2.0  # seconds for Triton's own word that it lives
_TRIES: Final = 3  # of a build that may have failed by another's fault; it may also be what ends Triton
_GONE_FOR: Final = 3  # looks in a row that a model must be missing


class Rollouts:
    """Follows what is committed in the repository of a supervised `server`: a context manager.

    Only models in `names` where it is given. `refusals` are those of the start.
    """

    def __init__(
        self,
        server: Server,
        supervisor: Supervisor,
        tell: Tell,
        names: Sequence[str] | None = None,
        refusals: Sequence[Refusal] = (),
    ) -> None:
        self._server, self._supervisor, self._tell, self._names = server, supervisor, tell, names
        self._stopping = threading.Event()
        self._switching = threading.Lock()
        # model -> build, and which commit of it
        self._refused = {
            each.name: _commit(BuiltModel(server.repository, each.name, each.build))
            for each in reversed(refusals)
            if each.is_final
        }
        self._unreadable: dict[str, str] = {}  # folder -> what was said of it
        self._incomplete: dict[str, float] = {}  # build -> when it was first seen
        self._missing: dict[str, int] = {}  # model -> looks
        self._tries: dict[str, int] = {}  # build -> how often it failed

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        # An ensemble that is loaded after a server has begun to let its requests finish would take new ones.
        if self._switching.acquire(timeout=_LAST_SWITCH):
            self._switching.release()
        self._thread.join(timeout=_HAND_OVER)

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY):
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - one look must not be the last
                self._tell(f"The repository cannot be followed now: {error}")

    def _look(self) -> None:
        try:
            committed, faults = survey(self._server.repository)
        except (RepositoryError, OSError):
            return  # the volume is away: nothing can be told
        self._server.hold()  # a deployment may have written a record anew
        found = {model.name: model for model in committed if self._follows(model.name)}
        self._name(faults)
        served = {model.name: model for model in self._server.models}
        for name, model in found.items():
            if self._stopping.is_set():
                return
            old, commit = served.get(name), _commit(model)
            if old and old.build == model.build:
                self._forgive(model)
            elif self._refused.get(name) == commit:
                self._supervisor.status.stay_refused(name, commit.time)
            else:
                self._take(model, old, commit)
        if committed:  # a repository without any model is a volume that is not mounted
            self._let_go([model for name, model in served.items() if name not in {*found, *faults}])
            for name in self._supervisor.status.unserved():
                if name not in {*found, *faults}:
                    self._supervisor.status.forget(name)

    def _name(self, faults: Mapping[str, RepositoryError]) -> None:
        """Say once of each folder that cannot be read that it stays as it is; others are followed."""
        said = {name: str(error).rstrip(".") for name, error in faults.items() if self._follows(name)}
        for name, fault in said.items():
            if self._unreadable.get(name) != fault:
                self._tell(f"{name} is not followed until this is put right: {fault}.")
        self._unreadable = said

    def _follows(self, name: str) -> bool:
        return self._names is None or name in self._names

    def _forgive(self, model: BuiltModel) -> None:
        """The commit of a refused build was taken back."""
        if self._refused.pop(model.name, None):
            self._supervisor.status.serve(model.name, model.build)

    def _take(self, model: BuiltModel, old: BuiltModel | None, commit: "_Commit") -> None:
        begun = time.monotonic()
        if self._server.is_away or not self._is_whole(model, commit):
            return
        triton = self._server.segments
        try:
            self._load_and_check(model)
            with self._switching:
                if self._stopping.is_set():
                    return
                self._switch(model, old)
                self._server.replace(old, model)
        except (TritextError, OSError) as error:
            if self._stopping.is_set():  # it is Triton that goes
                return
            if self._may_pass(model, error, triton):
                self._tell(f"{model.name}: build {model.build} is tried again: {_first_line(error)}.")
            else:
                self._refuse(model, commit, str(error))
            return
        self._tries.pop(model.build, None)
        self._supervisor.adopt(model)
        self._supervisor.status.count(ROLLOUTS, model=model.name, result="served")
        self._tell(f"{model.name}: build {model.build} answers after {time.monotonic() - begun:.1f} s"
                   f"{f', in the place of {old.build}' if old else ''}.")  # fmt: skip
        if old:
            self._retire(old)

    def _may_pass(self, model: BuiltModel, error: Exception, triton: str) -> bool:
        """Whether `error` may have been another's fault: Triton ended meanwhile, or a file could not be read."""
        self._tries[model.build] = self._tries.get(model.build, 0) + 1
        if self._tries[model.build] >= _TRIES:
            return False
        is_another = isinstance(error, OSError) or self._server.is_away or self._server.segments != triton
        return is_another or not self._server.remote.alive(timeout=_ALIVE)

    def _is_whole(self, model: BuiltModel, commit: "_Commit") -> bool:
        """Whether all files are there as they were built. What stays incomplete is refused."""
        try:
            damage = model.damage()
        except RepositoryError as error:
            damage = [str(error)]
        if not damage:
            self._incomplete.pop(model.build, None)
            return True
        if time.monotonic() > self._incomplete.setdefault(model.build, time.monotonic()) + _COMPLETE:
            rest = f" and {len(damage) - 3} more" if len(damage) > 3 else ""
            self._refuse(model, commit, f"missing or not as built: {', '.join(damage[:3])}{rest}")
        return False

    def _load_and_check(self, model: BuiltModel) -> None:
        prepare([model], Silent())
        remote = self._server.remote
        ensemble.compile_steps(model)
        with self._server.expecting_errors():
            for step in ensemble.steps(model)[::-1]:
                if self._stopping.is_set():
                    return
                self._server.load(step, _LOAD)
            infer = partial(remote.infer, timeout=_ANSWER)
            check_engine(model, infer)
            Chain.walk(model, infer)

    def _switch(self, model: BuiltModel, old: BuiltModel | None) -> None:
        """By the configuration that was checked, whatever has been committed since."""
        remote = self._server.remote
        try:
            remote.load(model.name, model.config(), timeout=_LOAD)
            answers = self._server.answers(model, timeout=_ANSWER)
        except ServeError:
            answers = False  # it may have switched all the same
        if not answers:
            if old:
                remote.load(old.name, old.config(), timeout=_LOAD)
            else:
                remote.start_unload(model.name)
            raise ServeError("its steps answer and its ensemble does not")

    def _refuse(self, model: BuiltModel, commit: "_Commit", reason: str) -> None:
        """Not to be tried again before another commit, and one that came meanwhile is another."""
        self._refused[model.name] = commit
        self._tries.pop(model.build, None)
        reason = _first_line(reason)
        serving = next((m.build for m in self._server.models if m.name == model.name), None)
        goes_on = f"build {serving} goes on answering" if serving else "nothing answers in its place"
        self._tell(f"{model.name}: build {model.build} is refused, {goes_on}: {reason}.")
        self._supervisor.status.refuse(model.name, model.build, reason)
        self._supervisor.status.count(ROLLOUTS, model=model.name, result="refused")
        for step in ensemble.steps(model):
            self._quietly(partial(self._server.remote.start_unload, step))

    def _let_go(self, gone: list[BuiltModel]) -> None:
        """Serve no more what has been missing for some looks."""
        self._missing = {model.name: self._missing.get(model.name, 0) + 1 for model in gone}
        for model in gone:
            if self._missing[model.name] < _GONE_FOR:
                continue
            self._supervisor.abandon(model.name)
            self._supervisor.status.forget(model.name)
            self._server.replace(model, None)
            self._quietly(partial(self._server.remote.unload, {model.name}, time.monotonic() + _FINISH))
            self._retire(model)
            self._tell(f"{model.name} is gone from the repository and is served no more.")

    def _retire(self, model: BuiltModel) -> None:
        """Unload the steps of a build that no ensemble names, each when the one before it has finished.

        All that there can be: the repository may have none of them any more, and Triton then lists them no more.
        """
        for role in (*ROLES, ENGINE_ROLE):
            step = step_name(model.name, role, model.build)
            if self._stopping.wait(_HAND_OVER):
                return
            self._quietly(partial(self._server.remote.unload, {step}, time.monotonic() + _FINISH))

    def _quietly(self, call: Callable[[], object]) -> None:
        with self._server.expecting_errors():
            try:
                call()
            except ServeError as error:
                self._tell(f"Triton does not let go of what is not served any more: {error}")


def _first_line(said: object) -> str:
    return str(said).partition("\n")[0].rstrip(".")


class _Commit(NamedTuple):
    """Tells a commit from the one before, be it of the same build: it renames a new configuration into place.

    By the file's number and by its time (ns), for a number is used again and a time may be copied.
    """

    build: str
    number: int
    time: int


def _commit(model: BuiltModel) -> _Commit:
    try:
        found = (model.repository / model.name / CONFIG).stat()
    except OSError:
        return _Commit(model.build, 0, 0)
    return _Commit(model.build, found.st_ino, found.st_mtime_ns)
