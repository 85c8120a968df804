"""A GPU and a TensorRT that are not there: plans of the stand-in backend, and a Triton that has it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tritext.engines.gpu import Machine
from tritext.engines.plan import Recipe
from tritext.engines.tensorrt_builder import BuildProgress
from tritext.repository import BuiltModel
from tritext.serve import installation
from tritext.serve.ensemble import plan_folder
from tritext.serve.prepare import Prepared, prepare
from tritext.serve.server import Server

MACHINE = Machine("10.13.3", "NVIDIA H100 80GB HBM3", "9.0", "12.8")
STANDIN = Path(__file__).parent / "standin" / "tensorrt" / "model.py"


def build_plan(folder: Path, recipe: Recipe, plan: Path, timings: Path, progress: BuildProgress) -> None:
    """What the stand-in backend takes for a plan."""
    progress("Building", 1, 1)
    timings.write_bytes(b"timings")
    plan.write_text(json.dumps({"graph": recipe.graph, "profiles": recipe.profiles()}))


def prepared(models: list[BuiltModel], machine: Machine = MACHINE) -> list[Prepared]:
    """`tritext prepare`, with the stand-in's plans."""
    return prepare(models, machine=machine, build=build_plan)


@contextmanager
def standin(folder: Path) -> Iterator[None]:
    """Every Triton that is started within has the stand-in for its TensorRT backend; `folder` is for its backends."""
    embedded = installation.find()
    given = next(each for each in embedded.arguments if each.startswith("--backend-directory="))
    backends = folder / "backends"
    if not backends.exists():
        shutil.copytree(Path(given.partition("=")[2]), backends)  # not as links, which may not leave the folder
        (backends / "tensorrt").mkdir()
        shutil.copyfile(STANDIN, backends / "tensorrt" / "model.py")
    arguments = tuple(f"--backend-directory={backends}" if each == given else each for each in embedded.arguments)
    with patch("tritext.serve.server.find", lambda: replace(embedded, arguments=arguments)):
        yield


@contextmanager
def recorded(calls: Path) -> Iterator[None]:
    """Every stand-in that is started within writes a line for each of its calls to `calls`."""
    calls.touch()
    with patch.dict(os.environ, {"TRITEXT_TEST_CALLS": str(calls)}):
        yield


def plan_calls(calls: Path, model: BuiltModel) -> list[dict[str, Any]]:
    """What the plan of `model` was asked so far, of what `recorded` has in `calls`."""
    folder = plan_folder(model)
    assert folder is not None
    read = (json.loads(line) for line in calls.read_text().splitlines())
    return [each for each in read if each["model"] == folder.parent.name]


@contextmanager
def served(models: list[BuiltModel], folder: Path) -> Iterator[Server]:
    """A real Triton with `models` and the stand-in."""
    names = [model.name for model in models]
    with standin(folder), Server(models[0].repository, models=names, grpc_port=0, http_port=0, metrics_port=0) as one:
        one.wait_ready()
        yield one
