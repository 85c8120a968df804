"""A model repository as it lies on disk: who is in it, and which build of each is committed.

::

    REPO/
      spam/                             the ensemble; clients call this name
        config.pbtxt                    its rename into place is the commit
        1/                              Triton wants a version folder; it holds nothing but an empty file, since
                                        copying by git or to an object store loses empty folders
        builds/3f9c01aa/manifest.json   see manifest.py
        builds/3f9c01aa/config.pbtxt    the ensemble of this build: copied over spam/config.pbtxt, it is the way back
      spam_tokenizer_3f9c01aa/          the steps, under build-stamped names
      spam_encoder_3f9c01aa/
      spam_postprocess_3f9c01aa/
      spam_engine_3f9c01aa/             only where the encoder step calls an engine that is a model of its own

One build before the committed one is kept. While a build runs there is a lock, and a folder that Triton does not
look at: see build/staging.py.
"""

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tritext import contract
from tritext.errors import RepositoryError
from tritext.manifest import MANIFEST, Example, Manifest, read_reference, sha256
from tritext.naming import ENGINE_ROLE, ROLES, step_name

CONFIG: Final = "config.pbtxt"
BUILDS: Final = "builds"
VERSION: Final = "1"
KEPT: Final = ".keep"

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BUILD_PATTERN: Final = re.compile(r"[0-9a-f]{8}")


def read_config(folder: Path) -> ModelConfig:
    """Parse ``config.pbtxt`` in `folder`; RepositoryError where it is missing or not a ModelConfig."""
    path = folder / CONFIG
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    except (OSError, ValueError, text_format.ParseError) as error:
        raise RepositoryError(f"{path} cannot be read as a Triton model configuration ({error}).") from error


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A committed model: the ensemble `name` in `repository`, at `build`."""

    repository: Path
    name: str
    build: str

    @property
    def folder(self) -> Path:
        """Where this build's manifest and reference answers lie."""
        return self.repository / self.name / BUILDS / self.build

    def manifest(self) -> Manifest:
        """The record of this build."""
        return Manifest.read(self.folder)

    def config(self) -> ModelConfig:
        """The ensemble of this build, whichever is committed now."""
        return read_config(self.folder)

    def reference(self) -> list[Example]:
        """The checkpoint's own ids and logits for a few real texts."""
        return read_reference(self.folder)

    def step(self, role: str) -> Path:
        """The version folder of the step that plays `role`."""
        return self.repository / step_name(self.name, role, self.build) / VERSION

    @property
    def roles(self) -> tuple[str, ...]:
        """Of all its steps, the engine's where it is a model of its own."""
        return (*ROLES, ENGINE_ROLE) if self.step(ENGINE_ROLE).is_dir() else ROLES

    def damage(self, *, is_committed: bool = True) -> list[str]:
        """What is missing, not as it was built, or lies outside, as paths below the repository. Reads every file.

        Where `is_committed` is False, another build may be.
        """
        folder = self.repository / self.name
        files = {self.repository / path: digest for path, digest in self.manifest().files.items()}
        # Not among the files, for it is what a commit or a way back replaces.
        if is_committed:
            files[folder / CONFIG] = files.get(self.folder / CONFIG, "")
        root = self.repository.resolve()
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing lets go of the interpreter's lock
            whole = list(pool.map(lambda path: _is_whole(path, files[path], root), files))
        bad = [path for path, is_whole in zip(files, whole, strict=True) if not is_whole]
        bad += [] if (folder / VERSION).is_dir() else [folder / VERSION]
        return sorted(os.path.relpath(path, self.repository) for path in bad)


def _is_whole(path: Path, digest: str, root: Path) -> bool:
    try:
        inside = path.resolve().is_relative_to(root)
        return inside and path.is_file() and sha256(path) == digest
    except (OSError, RuntimeError, ValueError):  # cannot be read, a circle of links, a name with a zero byte
        return False


def verify(models: Sequence[BuiltModel], *, is_committed: bool = True) -> None:
    """RepositoryError where a file of one of `models` is missing or not as it was built. Reads every file.

    Which build is committed does not matter where `is_committed` is False.
    """
    for model in models:
        if damage := model.damage(is_committed=is_committed):
            some = ", ".join(damage[:4]) + (f" and {len(damage) - 4} more" if len(damage) > 4 else "")
            raise RepositoryError(
                f"{model.name} is not as it was built: {some} in {model.repository} missing or changed. Copy the "
                "repository again, or build the model again."
            )


def committed(repository: Path, name: str) -> BuiltModel | None:
    """The model `name` in `repository`, or None where nothing of that name was ever committed.

    RepositoryError where a folder of that name was not made by tritext.
    """
    folder = repository / name
    if not (folder / CONFIG).is_file():
        return None
    _check_place(folder)
    build = read_config(folder).parameters[contract.PARAM_BUILD].string_value
    if not _BUILD_PATTERN.fullmatch(build):
        raise RepositoryError(f"{folder} is a Triton model that tritext did not make, or it is damaged.")
    return BuiltModel(repository, name, build)


def _check_place(folder: Path) -> None:
    if not NAME_PATTERN.fullmatch(folder.name):
        raise RepositoryError(f"{folder} has a name that no model can have. Rename or remove it.")
    if not folder.resolve().is_relative_to(folder.parent.resolve()):
        raise RepositoryError(f"{folder} is a link out of the repository. Copy the model here instead.")


def earlier(repository: Path, name: str, build: str | None) -> list[BuiltModel]:
    """The builds of `name` to fall back to from the committed `build`, the best first; None: it cannot be told which.

    First the one that it replaced, then the newest. None that took its place and was gone back from.
    """
    _check_place(repository / name)
    records = {}
    for folder in (repository / name / BUILDS).glob("*"):
        with suppress(RepositoryError):  # without its record a build cannot be checked
            if _BUILD_PATTERN.fullmatch(folder.name):
                records[folder.name] = Manifest.read(folder)
    current = records.pop(build, None) if build else None
    replaced = current.replaces if current else None
    found = [each for each in records if build is None or records[each].replaces != build]
    best = sorted(found, key=lambda each: (each == replaced, records[each].created), reverse=True)
    return [BuiltModel(repository, name, each) for each in best]


def is_ours(folder: Path) -> bool:
    """Whether tritext made this model's folder, also where its configuration is damaged."""
    if any((folder / BUILDS).glob(f"*/{MANIFEST}")):
        return True
    try:
        return contract.PARAM_BUILD in read_config(folder).parameters
    except RepositoryError:
        return False


def survey(repository: Path) -> tuple[list[BuiltModel], dict[str, RepositoryError]]:
    """Every committed model in `repository`, by name, and what is wrong with the folders that have none to be read.

    Folders that tritext did not make are left out. RepositoryError where `repository` is not a folder.
    """
    if not repository.is_dir():
        raise RepositoryError(f"{repository} is not a folder. `tritext build` makes a model repository.")
    found, faults = [], {}
    for name in sorted(folder.name for folder in repository.iterdir() if (folder / BUILDS).is_dir()):
        try:
            if model := committed(repository, name):
                found.append(model)
        except RepositoryError as error:
            faults[name] = error
    return found, faults


def models(repository: Path) -> list[BuiltModel]:
    """Every committed model in `repository`, by name; RepositoryError, as `survey`, where one cannot be read."""
    found, faults = survey(repository)
    for error in faults.values():
        raise error
    return found
