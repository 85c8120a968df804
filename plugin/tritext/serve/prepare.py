"""TensorRT plans for the GPU at hand: built where they are missing or do not fit, put into place, and checked.

A plan fits one TensorRT version and one kind of GPU, so a repository travels with the graph and the recipe, and whoever
serves makes the plan. Two replicas on one volume do not build twice: there is a lock beside the plan, and who waited
for it looks again. What was built is kept in a cache too, under a name made of everything that matters, so that the
next build of the same checkpoint starts at once.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tritext.engines.gpu import Machine, this_machine
from tritext.engines.plan import PLAN, RECORD, Recipe, Record, graph_hash, misfit
from tritext.engines.tensorrt_builder import BuildProgress
from tritext.errors import EngineError, RepositoryError, ServeError
from tritext.manifest import sha256
from tritext.progress import Progress, Silent
from tritext.repository import BuiltModel
from tritext.serve.check import WrongEngine, check_shapes
from tritext.serve.ensemble import plan_folder
from tritext.serve.plan_process import build_plan

CACHE: Final = "TRITEXT_CACHE"  # environment: where plans are kept; ~/.cache/tritext if not set
_LOCK: Final = ".tritext-prepare.lock"
_TOLD_EVERY: Final = 30.0  # seconds

# (folder with the recipe, recipe, file for the plan, file for timings, progress)
BuildPlan = Callable[[Path, Recipe, Path, Path, BuildProgress], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found and done for one model's plan. `reason` is why it had to be made; None where it was there."""

    model: BuiltModel
    folder: Path
    machine: Machine
    reason: str | None = None
    from_cache: bool = False
    seconds: float = 0.0
    checked: bool = False  # it has given the checkpoint's answers on this machine before


def prepare(
    models: Sequence[BuiltModel],
    progress: Progress | None = None,
    *,
    thorough: bool = False,
    machine: Machine | None = None,
    build: BuildPlan = build_plan,
) -> list[Prepared]:
    """Have a fitting plan for each of `models` that needs one; those that have it cost nothing.

    `thorough` reads existing plans to the end. `machine` and `build` stand in for the GPU and TensorRT of this machine.
    EngineError where there is none of them, ExportError where TensorRT refuses a graph, RepositoryError where the
    repository is damaged or cannot be written.
    """
    folders = [(model, folder) for model in models if (folder := plan_folder(model))]
    if not folders:
        return []
    here = machine or this_machine()
    listener = progress or Silent()
    return [_Preparer(model, folder, here, build, listener).run(thorough=thorough) for model, folder in folders]


class _Preparer:
    """Of one model's plan."""

    def __init__(self, model: BuiltModel, folder: Path, machine: Machine, build: BuildPlan, progress: Progress) -> None:
        self._model, self._folder, self._machine, self._build, self._progress = model, folder, machine, build, progress
        self._recipe = Recipe.read(folder)
        self._partial = folder / f".{PLAN}.{os.getpid()}"

    def run(self, *, thorough: bool) -> Prepared:
        reason = misfit(self._folder, self._recipe, self._machine, thorough=thorough)
        if reason is None:
            return self._done(None)
        begun = time.monotonic()
        try:
            with _locked(self._folder, self._model.name, self._progress):
                if misfit(self._folder, self._recipe, self._machine) is None:  # another process built it meanwhile
                    return self._done(reason, from_cache=True)
                record = self._from_cache()
                from_cache = record is not None
                self._place(record or self._built(reason))
        except OSError as error:
            raise RepositoryError(
                f"The plan of {self._model.name} cannot be written to {self._folder}: {error.strerror or error}. Mount "
                "the repository writable, with room for it, or run `tritext prepare` on it beforehand, on a machine "
                "with the same GPU and TensorRT."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                self._partial.unlink(missing_ok=True)
        return self._done(reason, from_cache=from_cache, seconds=time.monotonic() - begun)

    def _done(self, reason: str | None, *, from_cache: bool = False, seconds: float = 0.0) -> Prepared:
        record = Record.read(self._folder / RECORD)
        checked = record is not None and record.checked
        return Prepared(self._model, self._folder, self._machine, reason, from_cache, seconds, checked)

    def _built(self, reason: str) -> Record:
        """A new plan, not yet in its place."""
        recipe, machine, folder = self._recipe, self._machine, self._folder
        if graph_hash(folder, recipe.files) != recipe.sha256:
            raise RepositoryError(f"The graph in {folder} is not as it was built. Build {self._model.name} again.")
        if recipe.options.hardware_compatible and not machine.is_ampere_or_later:
            raise EngineError(f"A hardware-compatible plan needs a GPU from Ampere on, and here is {machine.gpu}.")
        name = self._model.name
        self._progress.tell(f"{name} needs a plan for {machine}: {reason}. It is built now, {self._estimate()}.")
        self._progress.step(f"Build the plan of {name}")
        begun = time.monotonic()
        timings = (_cache() or Path(tempfile.gettempdir())) / f"timings-{machine.tensorrt}-{_slug(machine.gpu)}"
        self._build(folder, recipe, self._partial, timings, _Teller(self._progress, name))
        seconds = time.monotonic() - begun
        size = self._partial.stat().st_size
        record = Record(
            recipe.key(machine), asdict(machine), asdict(recipe), size, sha256(self._partial), round(seconds, 1),
            datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        self._progress.done(f"{size / 1e6:,.1f} MB, {len(recipe.profiles())} profiles")
        self._to_cache(record)
        return record

    def _place(self, record: Record) -> None:
        """Put the plan into the folder by renames, so that Triton never meets half of one.

        Between the two the record does not match the plan, which would then be built again.
        """
        _flush(self._partial)
        self._partial.replace(self._folder / PLAN)
        _write_record(record, self._folder)

    def _cached(self) -> Path | None:
        folder = _cache()
        return None if folder is None else folder / f"{self._recipe.key(self._machine)}.plan"

    def _from_cache(self) -> Record | None:
        """The record of the plan in the cache, of which a copy is made; None where it has none that is whole."""
        cached = self._cached()
        record = None if cached is None else Record.read(cached.with_suffix(".json"))
        if cached is None or record is None or not cached.is_file() or sha256(cached) != record.plan_sha256:
            return None
        shutil.copyfile(cached, self._partial)
        return record

    def _to_cache(self, record: Record) -> None:
        """Without a cache, or room in it, the next build takes its time, and nothing else is lost."""
        if cached := self._cached():
            partial = cached.with_name(f".{cached.name}.{os.getpid()}")
            try:
                shutil.copyfile(self._partial, partial)
                partial.replace(cached)
                record.write(cached.with_suffix(".json"))
            except OSError as error:
                self._progress.tell(f"The plan is not kept in the cache: {error.strerror or error}.")
                with contextlib.suppress(OSError):
                    partial.unlink(missing_ok=True)

    def _estimate(self) -> str:
        """How long plans like this one took here; nobody knows where there are none."""
        cache = _cache()
        records = [] if cache is None else [r for path in cache.glob("*.json") if (r := Record.read(path))]
        mine = asdict(self._recipe)
        seconds = [
            record.seconds
            for record in records
            if record.machine.get("gpu") == self._machine.gpu
            and record.recipe.get("options") == mine["options"]
            and len(str(record.recipe.get("shapes"))) == len(str(mine["shapes"]))
        ]
        if not seconds:
            return "the first of its kind here, which may take some minutes"
        return f"those before took {min(seconds):,.0f} to {max(seconds):,.0f} s"


class _Teller:
    """Passes a build's progress on: each step, and a line now and then for whoever has no terminal."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._begun = self._told = time.monotonic()

    def __call__(self, phase: str, done: int, total: int) -> bool:
        self._progress.advance()
        now = time.monotonic()
        if now - self._told >= _TOLD_EVERY:
            self._told = now
            self._progress.tell(f"{self._name}: {phase}, {done} of {total}, after {now - self._begun:,.0f} s")
        return True


def verify(prepared: Sequence[Prepared], progress: Progress | None = None) -> None:
    """Serve the models of `prepared` for a moment and compare their plans with the reference, in every shape.

    A plan that gives other answers is removed, here and from the cache. WrongEngine says how far off it is; ServeError
    where the server does not start.
    """
    from tritext.serve.server import Server

    progress = progress or Silent()
    for each in prepared:
        progress.step(f"Check the plan of {each.model.name}")
        repository, names = each.model.repository, [each.model.name]
        try:
            with Server(repository, models=names, grpc_port=0, http_port=0, metrics_port=0) as server:
                server.wait_ready()
                calls = check_shapes(each.model, each.folder, server.infer)
                checked = server.checked[0]
        except ServeError as error:
            wrong = error if isinstance(error, WrongEngine) else error.__cause__
            if not isinstance(wrong, WrongEngine):
                raise
            _discard(each)
            raise wrong from None
        if record := Record.read(each.folder / RECORD):
            _write_record(replace(record, checked=True), each.folder)
        progress.done(
            f"{checked.texts} texts, logits within {checked.difference:.1e} (allowed {checked.tolerance:g}), and "
            f"{calls} calls of all shapes"
        )


def _discard(prepared: Prepared) -> None:
    key = Recipe.read(prepared.folder).key(prepared.machine)
    cached = [folder / f"{key}.plan" for folder in [_cache()] if folder]
    for path in [prepared.folder / PLAN, *cached]:
        path.unlink(missing_ok=True)


def _write_record(record: Record, folder: Path) -> None:
    partial = folder / f".{RECORD}.{os.getpid()}"
    record.write(partial)
    partial.replace(folder / RECORD)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _cache() -> Path | None:
    """Where plans are kept; None where that cannot be written."""
    folder = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "tritext") / "plans"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


@contextlib.contextmanager
def _locked(folder: Path, name: str, progress: Progress) -> Iterator[None]:
    """Nobody else prepares `folder` meanwhile, on any machine that shares the volume and its locks."""
    with (folder / _LOCK).open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.tell(f"Another process is building the plan of {name}.")
            progress.step("Wait for it")
            fcntl.flock(file, fcntl.LOCK_EX)
            progress.done()
        yield
