"""What a server needs to know of a committed model: which there are, what they take, what they are made of."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tritext.errors import ServeError
from tritext.repository import ROLES, BuiltModel, models, read_config, step_name

SAMPLE: Final = "Does this server answer?"


def choose(repository: Path, names: Sequence[str] | None) -> list[BuiltModel]:
    """The committed models of `repository`, or those of `names` alone.

    ServeError where there is none, RepositoryError where the record of one cannot be read.
    """
    found = {model.name: model for model in models(repository)}
    if not found:
        raise ServeError(
            f"{repository} has no model. `tritext build CHECKPOINT --name NAME --out {repository}` adds one."
        )
    if unknown := [name for name in names or () if name not in found]:
        raise ServeError(f"{repository} has no model {', '.join(unknown)} (--model). It has {', '.join(found)}.")
    chosen = [found[name] for name in dict.fromkeys(names or found)]
    for model in chosen:
        model.manifest()
    return chosen


def sample(model: BuiltModel) -> dict[str, str]:
    """A short text for every input that a request to `model` cannot leave out."""
    inputs = read_config(model.repository / model.name).input
    return {entry.name: SAMPLE for entry in inputs if not entry.optional}


def steps(model: BuiltModel) -> set[str]:
    """The Triton names of the steps of `model`."""
    return {step_name(model.name, role, model.build) for role in ROLES}


def curl(model: BuiltModel, http_url: str) -> str:
    """A shell line that asks `model`."""
    return f"curl -s {http_url}/v2/models/{model.name}/generate -d {shlex.quote(json.dumps(sample(model)))}"
