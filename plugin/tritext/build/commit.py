"""Putting a finished build into the repository so that a crash at any moment leaves a whole model behind.

The steps are written in a hidden folder and renamed into place under names that no other build has. The
ensemble's ``config.pbtxt`` comes last, by one rename: before it the old build answers, after it the new one.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tritext.errors import RepositoryError
from tritext.repository import BUILDS, CONFIG, NAME_PATTERN, ROLES, STEP_PATTERN, VERSION, committed, step_name

_STAGING: Final = ".tritext-staging-"
RECORD: Final = "record"  # the folder in staging that becomes NAME/builds/BUILD


def check_name(repository: Path, name: str) -> None:
    """RepositoryError where `name` cannot be used, or is a folder that tritext did not make."""
    if not NAME_PATTERN.fullmatch(name):
        raise RepositoryError(
            f"{name!r} cannot be a model's name. Use letters, digits, '.', '_' and '-', a letter or digit first."
        )
    if STEP_PATTERN.fullmatch(name):
        raise RepositoryError(f"{name!r} has the form of a build's step. Choose another name.")
    folder = repository / name
    if folder.exists() and not (folder / BUILDS).is_dir():
        raise RepositoryError(f"{folder} exists and was not made by tritext. Choose another --name or --out.")
    committed(repository, name)  # raises where its configuration is not ours


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A folder inside `repository` (so that renames stay on one file system), removed in the end."""
    try:
        repository.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=repository))
    except OSError as error:
        raise RepositoryError(f"{repository} cannot be written to: {error.strerror}.") from error
    try:
        yield folder
    except OSError as error:
        raise RepositoryError(f"The model repository {repository} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def commit(repository: Path, staged: Path, name: str, build: str, ensemble: ModelConfig) -> None:
    """Move the steps and the record in `staged` into `repository`, then switch the ensemble to them."""
    before = committed(repository, name)
    for role in ROLES:
        _replace(staged / role, repository / step_name(name, role, build))
    folder = repository / name
    (folder / VERSION).mkdir(parents=True, exist_ok=True)
    (folder / BUILDS).mkdir(exist_ok=True)
    _replace(staged / RECORD, folder / BUILDS / build)
    _write_whole(folder / CONFIG, text_format.MessageToString(ensemble, as_utf8=True))
    remove_builds(repository, name, keep={build} | ({before.build} if before else set()))


def remove_builds(repository: Path, name: str, keep: set[str]) -> None:
    """Remove the steps and records of every build of `name` but those in `keep`."""
    for folder in repository.iterdir():
        match = STEP_PATTERN.fullmatch(folder.name)
        if match and match["name"] == name and match["build"] not in keep:
            shutil.rmtree(folder)
    for record in (repository / name / BUILDS).iterdir():
        if record.name not in keep:
            shutil.rmtree(record)


def hashes(folder: Path, names: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of every file below ``folder/key``, under the path that it will have below `names`' value."""
    from tritext.build.source import sha256

    return {
        str(target / path.relative_to(folder / key)): sha256(path)
        for key, target in names.items()
        for path in sorted((folder / key).rglob("*"))
        if path.is_file()
    }


def _replace(source: Path, target: Path) -> None:
    """Move a folder; one that an interrupted build left at `target` goes first."""
    if target.exists():
        shutil.rmtree(target)
    source.replace(target)


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_suffix(".new")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
