"""Putting a finished build into the repository so that a crash at any moment leaves a whole model behind.

Steps and record are written in a staging folder and renamed into place under names that no other build has. The
ensemble's ``config.pbtxt`` comes last, by one rename: before it the old build answers, after it the new one. A new
model's ensemble comes as a whole folder, for one without configuration would keep Triton from starting.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tritext.build.staging import has_leftovers, staging
from tritext.errors import RepositoryError
from tritext.in_use import is_in_use
from tritext.manifest import sha256
from tritext.naming import ENGINE_ROLE, ROLES, STEP_PATTERN, step_name
from tritext.repository import BUILDS, CONFIG, NAME_PATTERN, VERSION, BuiltModel, committed, is_ours

ENSEMBLE: Final = "ensemble"  # the folder in staging that becomes NAME
_TRASH: Final = "trash"  # the one that nothing becomes of


def check_name(repository: Path, name: str) -> None:
    """RepositoryError where `name` cannot be used, or would take folders that tritext did not make."""
    if not NAME_PATTERN.fullmatch(name):
        raise RepositoryError(
            f"{name!r} cannot be a model's name. Use letters, digits, '.', '_' and '-', a letter or digit first."
        )
    if STEP_PATTERN.fullmatch(name):
        raise RepositoryError(f"{name!r} has the form of a build's step. Choose another name.")
    folder = repository / name
    if os.path.lexists(folder) and not is_ours(folder):
        raise RepositoryError(f"{folder} exists and was not made by tritext. Choose another --name or --out.")
    for step in _steps(repository, name):
        if not _is_own(step, folder):
            raise RepositoryError(
                f"{step} was not made by tritext, and has the form of a step of {name}. Choose another --name or --out."
            )


@contextmanager
def transaction(repository: Path, name: str) -> Iterator[Path]:
    """A staging folder to build `name` in: what interrupted builds left goes before, what is left over after.

    RepositoryError as `staging` says.
    """
    with staging(repository, name) as staged:
        clean(repository, name, staged)
        try:
            yield staged
        finally:
            with suppress(OSError):  # what stays behind, the next build removes
                clean(repository, name, staged)


def tidy(repository: Path, name: str) -> None:
    """Clean where there is nothing to build, if an interrupted build was the last to be here."""
    if has_leftovers(repository):
        with suppress(RepositoryError), transaction(repository, name):
            pass


def commit(staged: Path, model: BuiltModel) -> None:
    """Move what is in `staged`, a folder for each role and `ENSEMBLE`, into place and switch the ensemble to it."""
    repository, folder = model.repository, model.repository / model.name
    flush(staged)
    for role in _roles(staged):
        (staged / role).rename(repository / step_name(model.name, role, model.build))
    flush_names(repository)
    if folder.exists():
        _switch(staged / ENSEMBLE, folder, model.build)
    else:
        (staged / ENSEMBLE).rename(folder)
        flush_names(repository)


def _switch(ensemble: Path, folder: Path, build: str) -> None:
    if not (folder / VERSION).is_dir():
        (ensemble / VERSION).rename(folder / VERSION)
    (folder / BUILDS).mkdir(exist_ok=True)
    (ensemble / BUILDS / build).rename(folder / BUILDS / build)
    flush_names(folder / BUILDS)
    (ensemble / CONFIG).replace(folder / CONFIG)
    flush_names(folder)


def clean(repository: Path, name: str, staged: Path) -> None:
    """Remove every build of `name` but the committed one, the one before it and any that is served, by way of `staged`.

    Nothing is removed where it cannot be told which one is committed.
    """
    keep: set[str | None] = set()
    if (repository / name).exists():
        try:
            model = committed(repository, name)
        except RepositoryError:
            return
        if model is None:
            return
        keep.add(model.build)
        with suppress(RepositoryError):  # where its record is damaged, none before it is worth going back to
            keep.add(model.manifest().replaces)
    trash = staged / _TRASH
    trash.mkdir(exist_ok=True)
    records = list((repository / name / BUILDS).glob("*"))
    keep |= {record.name for record in records if record.name not in keep and is_in_use(record)}
    for folder in [*_steps(repository, name), *records]:
        if folder.name.rpartition("_")[2] not in keep:
            # Whole, or gone: a step without its configuration would keep Triton from starting.
            folder.rename(trash / folder.name)


def is_free(repository: Path, name: str, build: str) -> bool:
    """Whether nothing of `name` has the id `build`."""
    taken = [repository / step_name(name, role, build) for role in (*ROLES, ENGINE_ROLE)]
    return not any(os.path.lexists(path) for path in [*taken, repository / name / BUILDS / build])


def hashes(staged: Path, model: BuiltModel) -> dict[str, str]:
    """SHA-256 of every file of the steps and the record in `staged`, under its path in the repository."""
    record = Path(BUILDS, model.build)
    places = {staged / role: Path(step_name(model.name, role, model.build)) for role in _roles(staged)}
    places[staged / ENSEMBLE / record] = Path(model.name) / record
    return {
        str(place / path.relative_to(folder)): sha256(path)
        for folder, place in places.items()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _roles(staged: Path) -> list[str]:
    """Those that the build in `staged` has: most have no engine of their own."""
    return [role for role in (*ROLES, ENGINE_ROLE) if (staged / role).is_dir()]


def own_steps(repository: Path, name: str) -> list[Path]:
    """The steps of all builds of `name`, also of those that lost their record; nothing that tritext did not make."""
    return [step for step in _steps(repository, name) if _is_own(step, repository / name)]


def _is_own(step: Path, folder: Path) -> bool:
    return (folder / BUILDS / step.name.rpartition("_")[2]).is_dir() or is_ours(step)


def _steps(repository: Path, name: str) -> Iterator[Path]:
    for folder in sorted(repository.glob(f"{name}_*")):
        match = STEP_PATTERN.fullmatch(folder.name)
        if match and match["name"] == name:
            yield folder


def flush(folder: Path) -> None:
    """Have everything in `folder` on the disk before a rename can be."""
    for path in folder.rglob("*"):
        flush_names(path)


def flush_names(path: Path) -> None:
    """Have `path` on the disk: what a file holds, or which names a folder has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
