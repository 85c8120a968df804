"""TensorRT plans for the GPU at hand: built where they are missing or do not fit, and put into place.

A plan fits one TensorRT version and one kind of GPU, so a repository travels with the graph and the recipe, and whoever
serves makes the plan. Two replicas on one volume do not build twice: there is a lock beside the plan, and who waited
for it looks again. What was built is kept in a cache too, under a name made of everything that matters, so that the
next build of the same checkpoint starts at once.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tritext.engines import tensorrt_builder
from tritext.engines.gpu import Machine, this_machine
from tritext.engines.plan import PLAN, RECIPE, RECORD, Recipe, Record, graph_hash, misfit
from tritext.engines.tensorrt_builder import Builder, BuildProgress
from tritext.errors import RepositoryError, ServeError
from tritext.manifest import sha256
from tritext.naming import ENGINE_ROLE
from tritext.progress import Progress, Silent
from tritext.repository import BuiltModel

CACHE: Final = "TRITEXT_CACHE"  # environment: where plans are kept; ~/.cache/tritext if not set
_LOCK: Final = ".tritext-prepare.lock"

# (graph, recipe, progress, file for timings) -> the plan
BuildPlan = Callable[[Path, Recipe, BuildProgress, Path], bytes]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was found and done for one model's plan. `reason` is why it had to be made; None where it was there."""

    model: str
    plan: Path
    machine: Machine
    reason: str | None = None
    from_cache: bool = False
    seconds: float = 0.0


def plan_folder(model: BuiltModel) -> Path | None:
    """The version folder of the step of `model` that a plan runs; None where it has no plan."""
    folders = (model.step(role) for role in (ENGINE_ROLE, "encoder"))
    return next((folder for folder in folders if (folder / RECIPE).is_file()), None)


def prepare(
    models: Sequence[BuiltModel],
    progress: Progress | None = None,
    *,
    machine: Machine | None = None,
    build: BuildPlan | None = None,
) -> list[Prepared]:
    """Have a fitting plan for each of `models` that needs one; those that have it cost nothing.

    `machine` and `build` stand in for the GPU and TensorRT of this machine. EngineError where there is none of them,
    ExportError where TensorRT refuses a graph, RepositoryError where the repository is damaged or cannot be written.
    """
    folders = [(model, folder) for model in models if (folder := plan_folder(model))]
    if not folders:
        return []
    here = machine or this_machine()
    build = build or _build_here
    return [_prepare(model, folder, here, build, progress or Silent()) for model, folder in folders]


def _prepare(model: BuiltModel, folder: Path, machine: Machine, build: BuildPlan, progress: Progress) -> Prepared:
    recipe = Recipe.read(folder)
    reason = misfit(folder, recipe, machine)
    if reason is None:
        return Prepared(model.name, folder / PLAN, machine)
    begun = time.monotonic()
    with _locked(folder, model.name, progress):
        if misfit(folder, recipe, machine) is None:  # another process built it meanwhile
            return Prepared(model.name, folder / PLAN, machine, reason, from_cache=True)
        cached = _cached(recipe, machine)
        if from_cache := cached is not None:
            plan, record = cached
        else:
            plan, record = _built(model, folder, recipe, machine, build, progress, reason)
        _place(folder, plan, record)
    return Prepared(model.name, folder / PLAN, machine, reason, from_cache, time.monotonic() - begun)


def _built(
    model: BuiltModel, folder: Path, recipe: Recipe, machine: Machine, build: BuildPlan, progress: Progress, reason: str
) -> tuple[Path, Record]:
    """A new plan, in the cache."""
    if graph_hash(folder, recipe.files) != recipe.sha256:
        raise RepositoryError(f"The graph in {folder} is not as it was built. Build {model.name} again.")
    progress.tell(f"{model.name} needs a plan for {machine}: {reason}. It is built now, {_estimate(machine)}.")
    progress.step(f"Build the plan of {model.name}")
    begun = time.monotonic()
    cache = _cache()
    timings = cache / f"timings-{machine.tensorrt}-{_slug(machine.gpu)}"
    data = build(folder / recipe.graph, recipe, lambda *_: _advance(progress), timings)
    seconds = time.monotonic() - begun
    plan = cache / f"{recipe.key(machine)}.plan"
    _write(plan, data)
    record = Record(
        recipe.key(machine), asdict(machine), asdict(recipe), sha256(plan), round(seconds, 1),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    record.write(plan.with_suffix(".json"))
    progress.done(f"{len(data) / 1e6:,.1f} MB, {len(recipe.profiles())} profiles")
    return plan, record


def _build_here(graph: Path, recipe: Recipe, progress: BuildProgress, timings: Path) -> bytes:
    return Builder(tensorrt_builder.load()).build(graph, recipe, progress, timings)


def _advance(progress: Progress) -> bool:
    progress.advance()
    return True


def _cached(recipe: Recipe, machine: Machine) -> tuple[Path, Record] | None:
    plan = _cache() / f"{recipe.key(machine)}.plan"
    record = Record.read(plan.with_suffix(".json"))
    if record is None or not plan.is_file() or sha256(plan) != record.plan_sha256:
        return None
    return plan, record


def _place(folder: Path, plan: Path, record: Record) -> None:
    """Put `plan` into `folder` by renames, so that Triton never meets half of one.

    Between the two the record does not match the plan, which is then built again.
    """
    try:
        partial = folder / f".{PLAN}.{os.getpid()}"
        shutil.copyfile(plan, partial)
        _flush(partial)
        partial.replace(folder / PLAN)
        record.write(partial)
        partial.replace(folder / RECORD)
    except OSError as error:
        raise RepositoryError(_unwritable(folder, error)) from error


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _unwritable(folder: Path, error: OSError) -> str:
    return (
        f"The plan cannot be written to {folder}: {error.strerror or error}. Mount the repository writable, or run "
        "`tritext prepare` on it beforehand, on a machine with the same GPU and TensorRT."
    )


def _cache() -> Path:
    folder = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "tritext") / "plans"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepositoryError(
            f"{folder} cannot be written: {error.strerror or error}. {CACHE} names another folder for plans."
        ) from error
    return folder


def _estimate(machine: Machine) -> str:
    """How long the plans of this machine took; nobody knows where there are none."""
    records = [record for path in _cache().glob("*.json") if (record := Record.read(path))]
    seconds = [record.seconds for record in records if Machine(**record.machine).fits(machine)]
    if not seconds:
        return "the first one here, which may take some minutes"
    return f"those before took {min(seconds):,.0f} to {max(seconds):,.0f} s"


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


@contextlib.contextmanager
def _locked(folder: Path, name: str, progress: Progress) -> Iterator[None]:
    """Nobody else prepares `folder` meanwhile, on any machine that shares the volume and its locks."""
    try:
        file = (folder / _LOCK).open("a", encoding="utf-8")
    except OSError as error:
        raise RepositoryError(_unwritable(folder, error)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.tell(f"Another process is building the plan of {name}.")
            progress.step("Wait for it")
            fcntl.flock(file, fcntl.LOCK_EX)
            progress.done()
        yield


def verify(repository: Path, prepared: Sequence[Prepared], progress: Progress | None = None) -> None:
    """Serve the models of `prepared` for a moment and compare their engines with the reference answers.

    A plan that gives others is removed. ServeError says which, and how far off it is.
    """
    from tritext.serve.server import Server

    progress = progress or Silent()
    for each in prepared:
        progress.step(f"Check the plan of {each.model}")
        with Server(repository, models=[each.model], grpc_port=0, http_port=0, metrics_port=0) as server:
            try:
                server.wait_ready()
            except ServeError:
                each.plan.unlink(missing_ok=True)
                raise
            checked = server.checked[0]
        progress.done(f"{checked.texts} texts, logits within {checked.difference:.1e} (allowed {checked.tolerance:g})")
