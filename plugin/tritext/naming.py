"""The Triton model names of a build's steps. Loads nothing, for the steps themselves use it."""

import re
from pathlib import Path
from typing import Final

ROLES: Final = ("tokenizer", "encoder", "postprocess")  # of the ensemble's steps, in order
ENGINE_ROLE: Final = "engine"  # of a model that the encoder step calls, where its engine is one

STEP_PATTERN: Final = re.compile(rf"(?P<name>.+)_(?P<role>{'|'.join([*ROLES, ENGINE_ROLE])})_(?P<build>[0-9a-f]{{8}})")


def step_name(name: str, role: str, build: str) -> str:
    """The Triton model name of one step of one build."""
    return f"{name}_{role}_{build}"


def sibling(version: Path, role: str) -> Path:
    """The version folder of the step that plays `role` in the same build as the step whose version folder is `version`.

    Also in a build's staging folder, where steps are called by their roles.
    """
    match = STEP_PATTERN.fullmatch(version.parent.name)
    name = step_name(match["name"], role, match["build"]) if match else role
    return version.parent.with_name(name) / version.name
