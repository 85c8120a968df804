"""A tritonserver on a model repository: started, watched until it answers rightly, stopped cleanly."""

import contextlib
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from tritext import admission, calls
from tritext.engines.machine import THREADS
from tritext.errors import ModelsUnfit, RepositoryError, ServeError, TritextError
from tritext.in_use import InUse
from tritext.repository import BuiltModel, committed, verify
from tritext.serve import command, ensemble
from tritext.serve.check import BUDGET, Checked, check_engine
from tritext.serve.doorway import Doorway
from tritext.serve.endpoints import Endpoints, claim
from tritext.serve.fences import start_fences
from tritext.serve.installation import find
from tritext.serve.launch import Command, Launch
from tritext.serve.log import Log, LogLevel
from tritext.serve.log_format import LogFormat
from tritext.serve.process import Process
from tritext.serve.protection import Protection
from tritext.serve.remote import Arrays, Remote
from tritext.serve.steps import processes_of

# How long Triton may take to exit once its models are gone. It would wait for idle keep-alive connections too.
LINGER: Final = 3.0
POLL: Final = 0.02
# By how much Triton stands back for the fences: they refuse within some hundredths of a second while it computes on all
# cores (`benchmarks.reliability.overload`). By 3 was not enough.
NICE: Final = 5
_ALIVE: Final = 2.0  # seconds for Triton's own word that it lives
_PATIENCE: Final = 30.0  # seconds for whatever says nothing else, once it is ready

T = TypeVar("T")


class Server:
    """Triton with the committed models of `repository`, or those of `models` alone, be it in another build.

    A context manager: entering starts it, leaving stops it. Port 0 picks a free one. Lines of Triton's log at
    `log_level` or above go to `log`, one call a line, from a thread of its own (default: to standard error), written as
    `log_format` does; with `access_log` one for each request goes there too.
    Each encoder runs `threads` threads, all cores where None. A request that would wait longer than `latency_goal`
    seconds is refused (0: none is). `protection` says who may ask, and how. Without `grpc_fence` callers reach Triton's
    own gRPC server, in clear. Triton stands back by `nice` (0 to 19) for us, the fences above all. `arguments` are
    passed on to tritonserver. A key made for each start, and kept here, is needed for everything but inference, health,
    metadata and configurations.
    """

    def __init__(
        self,
        repository: Path,
        *,
        models: Sequence[str] | Sequence[BuiltModel] | None = None,
        host: str = "127.0.0.1",
        grpc_port: int = 8001,
        http_port: int = 8000,
        metrics_port: int = 8002,
        log_level: LogLevel = "warning",
        log: Callable[[str], None] | None = None,
        log_format: LogFormat | None = None,
        access_log: bool = False,
        threads: int | None = None,
        protection: Protection | None = None,
        latency_goal: float = admission.DEFAULT_GOAL,
        grpc_fence: bool = True,
        nice: int = NICE,
        arguments: Sequence[str] = (),
    ) -> None:
        self.repository = repository.resolve()
        self.models = ensemble.choose(self.repository, models)
        self._in_use = InUse()
        self._by_config = False  # whether ensembles are loaded as they are served, whatever is committed
        self.checked: list[Checked] = []  # what wait_ready found of each model's engine
        self._wanted = (host, grpc_port, http_port, metrics_port)
        self._log_to = (log_level, log or _to_stderr, log_format)
        self._log = Log(*self._log_to)
        self._access_log = access_log
        self._told = {} if threads is None else {THREADS: str(threads)}
        self._latency_goal = latency_goal
        self._arguments = (*(["--log-verbose=1"] if log_level == "debug" else []), *arguments)
        self.protection = protection or Protection()
        self._grpc_fence, self._nice = grpc_fence, nice
        if self.protection.tls and not grpc_fence:
            raise ServeError("TLS ends at the fence in front of gRPC. Leave out --no-grpc-fence, or --tls-cert.")
        self._endpoints: Endpoints | None = None
        self._process: Process | None = None
        self._fences: list[Doorway] = []
        self._remote: Remote | None = None
        self._serving = False
        self._launches: set[Launch] = set()
        self._command: Command | None = None
        self._generation = 0  # how often Triton was started again
        self._changing = threading.Lock()  # nobody starts what somebody else stops
        self._status: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def grpc_url(self) -> str:
        """HOST:PORT of the gRPC endpoint."""
        return _started(self._endpoints).grpc_url

    @property
    def http_url(self) -> str:
        """http://HOST:PORT of the HTTP endpoint."""
        return _started(self._endpoints).http_url

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads."""
        return _started(self._endpoints).metrics_url

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return _started(self._endpoints).is_local

    @property
    def endpoints(self) -> Endpoints:
        """Where it listens."""
        return _started(self._endpoints)

    @property
    def remote(self) -> Remote:
        """The connection that may do everything."""
        return _started(self._remote)

    @property
    def segments(self) -> str:
        """How the names of its shared memory begin; the command line of each of its processes has it."""
        return _started(self._process).segments

    @property
    def ended(self) -> str | None:
        """How Triton ended, in words; None while it runs."""
        process = _started(self._process)
        return process.how_it_ended() if process.ended else None

    @property
    def is_away(self) -> bool:
        """Whether Triton has ended, or does not answer yet after it was started again."""
        process = self._process
        return process is None or process.ended or not self._serving

    @property
    def http_is_local(self) -> bool:
        """Whether only this machine can connect to HTTP."""
        return _started(self._endpoints).http_is_local

    def warnings(self) -> list[str]:
        """What whoever starts this server should know of who can ask it, in sentences."""
        native = ensemble.native_steps(self.models)
        return self.protection.warnings(is_local=self.is_local, http_is_local=self.http_is_local, native=native)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The tritonserver process."""
        return _started(_started(self._process).popen)

    def log_tail(self, count: int = 20) -> list[str]:
        """The last lines of Triton's log, whatever the log level; tables are left out."""
        return self._log.tail(count)

    def curl(self, model: BuiltModel) -> str:
        """A shell line that asks `model`."""
        return ensemble.curl(model, self.http_url, with_key=self.protection.has_key)

    def start(self) -> None:
        """Start Triton and return at once; ServeError where it is not found or a port cannot be had.

        ModelsUnfit where a file of a model is not as it was built.
        """
        if self._process is not None:
            raise ServeError("This server was started before. Make another Server.")
        self._by_config = self._generation > 0 or not self._are_committed()
        self._in_use.keep(self.models)
        self._verify()
        installation = find()
        self._endpoints = self.protection.placed(claim(*self._wanted, fence_grpc=self._grpc_fence))
        self._log = Log(*self._log_to)
        key = secrets.token_urlsafe(24)
        segments = f"tritext_{os.getpid()}_{secrets.token_hex(4)}_"
        loads = ensemble.steps if self._by_config else ensemble.loads
        names = [name for model in self.models for name in loads(model)]
        extra = (
            *ensemble.backend_flags(self.models),
            *self.protection.flags(calls.header(calls.path(segments))),
            *self._arguments,
        )
        self._remote = self.protection.connect(self._endpoints, key)
        self._process = Process(
            command.line(installation, self._endpoints, names, key=key, segments=segments, extra=extra),
            environment={
                **installation.environment,
                **self._told,
                **self.protection.environment(),
                **admission.environment(segments, self._latency_goal),
                **calls.environment(segments),
            },
            folder=self.repository,
            log=self._log,
            segments=segments,
            nice=self._nice,
            access_log=self._access_log,
        )
        self._fences = start_fences(self._endpoints, self.protection.tls, segments, self._latency_goal, self._build_of)
        self._process.start()

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until every model answers a text, and check every engine against its reference answers.

        ServeError, with the reason and the last lines of the log, where that does not come to pass within
        `timeout` seconds: ModelsUnfit where it is known which models are at fault. The server then still has to be
        stopped.
        """
        deadline = time.monotonic() + timeout
        remote = _started(self._remote)
        while not (_started(self._endpoints).open() and remote.alive(timeout=_ALIVE)):
            self._raise_if_failed(deadline, timeout)
        self._serving = True
        remote.timeout = max(1.0, deadline - time.monotonic())
        for model in self.models:
            try:
                if self._by_config:
                    remote.load(model.name, model.config())
                remote.infer(model.name, ensemble.sample_arrays(model))
            except ServeError as error:
                raise self._failed(str(error), [model]) from error
        self.checked = [self._check(model) for model in self.models]
        remote.timeout = _PATIENCE
        self._command = Command.found(self.segments, self.repository)

    def _build_of(self, name: str) -> str | None:
        return next((model.build for model in self.models if model.name == name), None)

    def _verify(self) -> None:
        for model in self.models:
            try:
                verify([model], is_committed=not self._by_config)
            except RepositoryError as error:
                raise ModelsUnfit(str(error), [model.name]) from error
            if self._by_config:
                ensemble.compile_steps(model)

    def _are_committed(self) -> bool:
        try:
            return all(committed(self.repository, model.name) == model for model in self.models)
        except RepositoryError:
            return False

    def _check(self, model: BuiltModel) -> Checked:
        try:
            return check_engine(model, self.remote.infer, budget=BUDGET / len(self.models))
        except TritextError as error:
            raise ModelsUnfit(str(error), [model.name]) from error

    def _raise_if_failed(self, deadline: float, timeout: float) -> None:
        """Triton opens its ports when all models are loaded; until then, wait a little and look for trouble."""
        process = _started(self._process)
        if process.wait(POLL):
            # Who of several that were loading made it crash, nobody knows.
            late = self._models_of(self._log.pending)
            how = process.how_it_ended()
            culprits = self._culprits() or (late if len(late) == 1 else [])
            raise self._failed(f"Triton stopped before it was ready ({how})", culprits)
        if self._log.hopeless:
            raise self._failed("A model cannot be loaded", self._culprits())
        if time.monotonic() > deadline:
            steps = self._log.pending
            pending = f"; {', '.join(steps)} still loading" if steps else ""
            what = f"Triton was not ready within {timeout:g} s{pending}. --timeout gives it longer"
            raise self._failed(what, self._models_of(steps))

    def _culprits(self) -> list[BuiltModel]:
        """Those that the log makes answerable for a start that failed."""
        return self._models_of([self._log.culprit] if self._log.culprit else [])

    def _models_of(self, names: Iterable[str]) -> list[BuiltModel]:
        """Those models that are called so, or have a step that is."""
        named = set(names)
        return [model for model in self.models if named & {model.name, *ensemble.steps(model)}]

    def _failed(self, what: str, culprits: Sequence[BuiltModel] = ()) -> ServeError:
        reason = f": {self._log.reason}" if self._log.reason else ""
        tail = "".join(f"\n  {line}" for line in self.log_tail())
        said = f"{what}{reason}.\nThe last lines of its log:{tail or ' none'}"
        return ModelsUnfit(said, [model.name for model in culprits]) if culprits else ServeError(said)

    def relaunch(self, timeout: float = 120.0) -> None:
        """End Triton, however it is, and start it again on the same ports; ServeError where it does not get ready."""
        with self._changing:
            if self._status is not None:
                raise ServeError("The server is being stopped.")
            if endpoints := self._endpoints:
                self._wanted = (endpoints.address, endpoints.grpc, endpoints.http, endpoints.metrics)
            if self._process is not None:
                self._process.end(0)
                self._close()
            self._process, self._serving = None, False
            self._generation += 1
            self.start()
        self.wait_ready(timeout)

    def replace(self, old: BuiltModel | None, new: BuiltModel | None) -> None:
        """Note that `new` is served from now on, and `old` no more."""
        kept = [model for model in self.models if model != old]
        self.models = [*kept, new] if new else kept
        self.hold()

    def hold(self) -> None:
        """Keep what is served from being cleaned away, also where its record was written anew since."""
        if self._status is None:
            self._in_use.keep(self.models)

    def answers(self, model: BuiltModel, *, timeout: float | None = None) -> bool:
        """Whether `model` answers a short text within `timeout` seconds."""
        try:
            self.remote.infer(model.name, ensemble.sample_arrays(model), timeout=timeout)
        except ServeError:
            return False
        return True

    @property
    def is_loading(self) -> bool:
        """Whether a step is being loaded."""
        return bool(self._launches)

    def load(self, step: str, timeout: float) -> None:
        """Load `step` within `timeout` seconds; ServeError where it fails, be it that its process dies at its start."""
        launch = Launch(self.segments, self.process.pid, step, self._command)
        self._launches.add(launch)
        try:
            with launch:
                self.remote.load(step, timeout=timeout)
        finally:
            self._launches.discard(launch)
        if launch.has_spoken and not processes_of(step, self.segments):
            raise ServeError(f"The process of {step} died as it started")

    def expecting_errors(self) -> AbstractContextManager[None]:
        """While its block runs, what Triton logs is kept and not shown: its complaints are about what we do."""
        return self._log.hushed()

    def infer(self, model: str, arrays: Arrays) -> Arrays:
        """Ask a model, or a step of one; ServeError where it answers with an error."""
        return _started(self._remote).infer(model, arrays)

    def wait(self) -> None:
        """Wait for as long as Triton runs. ServeError, with the last lines of its log, where it ends by itself."""
        process = _started(self._process)
        process.wait()
        if self._status is None:
            raise self._failed(f"Triton stopped by itself ({process.how_it_ended()})")

    def stop(self, grace: float = 30.0) -> int:
        """Refuse new requests, let those in flight finish within `grace` seconds, and end Triton.

        0, or 1 where requests were cut off or Triton had ended by itself. Nothing of it is left in any case.
        """
        with self._changing:
            if self._status is not None or (self._process is None and not self._generation):
                self._in_use.keep(())
                return self._status or 0
            patience, self._status = 0.0, 1
        if self._process is None:  # it could not be started again
            return self._status
        try:
            if not self._serving:
                self._status = int(self._process.ended)
            elif self._drain(deadline := time.monotonic() + grace):
                patience, self._status = LINGER, 0
                # Triton has given its answers; who reads them slowly may not have them yet.
                for fence in self._fences:
                    if not fence.stop(max(0.0, deadline - time.monotonic())):
                        self._status = 1
        finally:
            self._process.end(patience)
            self._close()
            self._in_use.keep(())
        return self._status

    def _close(self) -> None:
        """Let go of everything but Triton itself."""
        for fence in self._fences:
            fence.stop()
        self._fences = []
        if self._remote is not None:
            self._remote.close()

    def _drain(self, deadline: float) -> bool:
        """Whether all requests in flight were answered.

        Triton's own way to stop (2.51) refuses the later steps of ensembles that are under way. An unloaded
        ensemble takes no new request and finishes those it has; then its steps can go.
        """
        remote = _started(self._remote)
        remote.timeout = 5.0
        try:
            if not remote.unload({model.name for model in self.models}, deadline):
                return False
        except ServeError:  # it does not answer any more
            return False
        with contextlib.suppress(ServeError):  # only so that each step can tidy up behind itself
            remote.unload(set().union(*map(ensemble.steps, self.models)), time.monotonic() + LINGER)
        return True


def _started(part: T | None) -> T:
    if part is None:
        raise ServeError("The server has not been started.")
    return part


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
