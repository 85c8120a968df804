"""A model repository as it lies on disk: who is in it, and which build of each is committed.

::

    REPO/
      spam/                             the ensemble; clients call this name
        config.pbtxt                    its rename into place is the commit
        1/                              empty: Triton wants a version folder
        builds/3f9c01aa/manifest.json   see manifest.py
      spam_tokenizer_3f9c01aa/          the steps, under build-stamped names
      spam_encoder_3f9c01aa/
      spam_postprocess_3f9c01aa/
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from tritext import contract
from tritext.errors import RepositoryError
from tritext.manifest import Example, Manifest, read_reference

CONFIG: Final = "config.pbtxt"
BUILDS: Final = "builds"
VERSION: Final = "1"
ROLES: Final = ("tokenizer", "encoder", "postprocess")

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
STEP_PATTERN: Final = re.compile(rf"(?P<name>.+)_(?P<role>{'|'.join(ROLES)})_(?P<build>[0-9a-f]{{8}})")


def step_name(name: str, role: str, build: str) -> str:
    """The Triton model name of one step of one build."""
    return f"{name}_{role}_{build}"


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

    def reference(self) -> list[Example]:
        """The checkpoint's own ids and logits for a few real texts."""
        return read_reference(self.folder)

    def step(self, role: str) -> Path:
        """The version folder of the step that plays `role`."""
        return self.repository / step_name(self.name, role, self.build) / VERSION


def committed(repository: Path, name: str) -> BuiltModel | None:
    """The model `name` in `repository`, or None where nothing of that name was ever committed.

    RepositoryError where a folder of that name was not made by tritext.
    """
    folder = repository / name
    if not (folder / CONFIG).is_file():
        return None
    build = read_config(folder).parameters[contract.PARAM_BUILD].string_value
    if not build:
        raise RepositoryError(f"{folder} is a Triton model that tritext did not make.")
    return BuiltModel(repository, name, build)


def models(repository: Path) -> list[BuiltModel]:
    """Every committed model in `repository`, by name; folders that tritext did not make are left out.

    RepositoryError where `repository` is not a folder.
    """
    if not repository.is_dir():
        raise RepositoryError(f"{repository} is not a folder. `tritext build` makes a model repository.")
    names = sorted(folder.name for folder in repository.iterdir() if (folder / BUILDS).is_dir())
    return [model for name in names if (model := committed(repository, name))]
