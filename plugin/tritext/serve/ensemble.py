"""What a server needs to know of a committed model: which there are, what they take, what they are made of."""

import compileall
import json
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from tritext import access, contract
from tritext.engines.plan import RECIPE, Recipe
from tritext.errors import ServeError
from tritext.naming import ENGINE_ROLE, step_name
from tritext.repository import BuiltModel, models, read_config
from tritext.serve.remote import Arrays, text

SAMPLE: Final = "Does this server answer?"


def choose(repository: Path, wanted: Sequence[str] | Sequence[BuiltModel] | None) -> list[BuiltModel]:
    """The committed models of `repository`, or those that are `wanted`, which may be given by their names.

    ServeError where there is none, RepositoryError where the record of one cannot be read.
    """
    given = {each.name: each for each in wanted or () if isinstance(each, BuiltModel)}
    found = given or {model.name: model for model in models(repository)}
    names = [each.name if isinstance(each, BuiltModel) else each for each in wanted or ()]
    chosen = [found[name] for name in choose_names(repository, names, found)]
    for model in chosen:
        model.manifest()
    return chosen


def choose_names(repository: Path, names: Sequence[str], found: Collection[str]) -> list[str]:
    """Those of `names` that were `found` in `repository`, all where there are none; ServeError where one was not."""
    if not found:
        raise ServeError(
            f"{repository} has no model. `tritext build CHECKPOINT --name NAME --out {repository}` adds one."
        )
    if unknown := [name for name in names if name not in found]:
        raise ServeError(f"{repository} has no model {', '.join(unknown)} (--model). It has {', '.join(found)}.")
    return list(dict.fromkeys(names or found))


def sample(model: BuiltModel) -> dict[str, str]:
    """A short text for every input that a request to `model` cannot leave out."""
    config = model.config()
    told = contract.PARAM_SAMPLE in config.parameters
    sample = config.parameters[contract.PARAM_SAMPLE].string_value if told else SAMPLE
    return {entry.name: sample for entry in config.input if not entry.optional}


def sample_arrays(model: BuiltModel) -> Arrays:
    """The same as tensors [1, 1]."""
    return {name: text(value) for name, value in sample(model).items()}


def steps(model: BuiltModel) -> list[str]:
    """The Triton names of the steps of `model`, in the order in which a request meets them."""
    return [step_name(model.name, role, model.build) for role in model.roles]


def loads(model: BuiltModel) -> list[str]:
    """What Triton must be told to load: the ensemble, which brings its steps, and what those call by themselves."""
    engine = [step_name(model.name, ENGINE_ROLE, model.build)] if ENGINE_ROLE in model.roles else []
    return [*engine, model.name]


def compile_steps(model: BuiltModel) -> None:
    """Compile the Python of a model whose steps are loaded before its ensemble.

    Else Python does it as a step is loaded, and Triton, which finds a new file in the folder when it loads the
    ensemble, loads the step once more.
    """
    for role in model.roles:
        compileall.compile_dir(model.step(role), quiet=2)


def native_steps(models: Sequence[BuiltModel]) -> list[str]:
    """The Triton names of the steps that Triton runs without Python: they see no parameters, and so no API key."""
    folders = [model.repository / step for model in models for step in steps(model)]
    return sorted(folder.name for folder in folders if read_config(folder).backend != "python")


def plan_folder(model: BuiltModel) -> Path | None:
    """The version folder of the step of `model` that a plan runs; None where it has no plan."""
    folders = (model.step(role) for role in (ENGINE_ROLE, "encoder"))
    return next((folder for folder in folders if (folder / RECIPE).is_file()), None)


def backend_flags(models: Sequence[BuiltModel]) -> tuple[str, ...]:
    """What Triton's backends must be told of `models`: whether plans may bring a runtime of their own."""
    folders = [folder for model in models if (folder := plan_folder(model))]
    if any(Recipe.read(folder).options.version_compatible for folder in folders):
        return ("--backend-config=tensorrt,version-compatible=true",)
    return ()


def curl(model: BuiltModel, http_url: str, *, with_key: bool = False) -> str:
    """A shell line that asks `model`, with the API key that is in the shell's environment."""
    body = shlex.quote(json.dumps(sample(model)))
    if with_key:
        body = f"""{body[:-2]}, "{access.HEADER}": "Bearer '"${access.KEY}"'"}}'"""
    return f"curl -s {http_url}/v2/models/{model.name}/generate -d {body}"
