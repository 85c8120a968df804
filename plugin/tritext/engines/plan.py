"""A TensorRT plan on the disk: what it is to be built from, and what was built.

``plan.json`` is the recipe, which travels with the repository beside the graph. ``model.plan`` is what Triton loads; it
fits one TensorRT version and one kind of GPU, which ``model.plan.json`` beside it names.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from tritext.engines.gpu import Machine
from tritext.engines.shapes import Buckets, CallShapes, Profile, shapes_from
from tritext.errors import RepositoryError
from tritext.manifest import sha256
from tritext.stored import check_inside, read_json

RECIPE: Final = "plan.json"
PLAN: Final = "model.plan"
RECORD: Final = "model.plan.json"

BUILDER: Final = 1  # another number where tensorrt_builder.py makes other plans of the same recipe


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a user can choose about a plan.

    `optimization_level` is TensorRT's, 0 to 5: how long it looks for fast kernels. A `version_compatible` plan runs in
    later minor versions of TensorRT too, and carries a runtime of its own, which Triton must be allowed to load; a
    `hardware_compatible` one on every GPU from Ampere on. Both are slower.
    """

    optimization_level: int = 3
    version_compatible: bool = False
    hardware_compatible: bool = False

    @classmethod
    def parse(cls, written: Mapping[str, str]) -> Self:
        """Read options as a command line has them; ValueError says what is wrong with one."""
        values: dict[str, Any] = {}
        for name, value in written.items():
            if name == "optimization_level" and value in set("012345"):
                values[name] = int(value)
            elif name in {"version_compatible", "hardware_compatible"} and value in {"true", "false"}:
                values[name] = value == "true"
            else:
                raise ValueError(
                    f"{name}={value} is none. There are optimization_level=0 to 5, version_compatible=true and "
                    "hardware_compatible=true."
                )
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what plan comes of a graph, but for the machine.

    `files` lie beside the recipe: the graph, and behind it those with its weights, where it has such. `sha256` covers
    them all.
    """

    files: tuple[str, ...]
    sha256: str
    inputs: tuple[str, ...]
    precision: str
    shapes: Mapping[str, Any]  # as tritext.engines.shapes writes them
    options: PlanOptions = PlanOptions()

    def write(self, folder: Path) -> None:
        """Write it to `folder`."""
        (folder / RECIPE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The recipe in `folder`; RepositoryError where it is missing or damaged."""
        path = folder / RECIPE
        try:
            values = read_json(path)
            lists = {name: tuple(values[name]) for name in ("files", "inputs")}
            recipe = cls(**{**values, **lists, "options": PlanOptions(**values["options"])})
            shapes_from(recipe.shapes)
            for name in recipe.files:
                check_inside(name)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RepositoryError(f"{path} cannot be read ({error}). Build the model again.") from error
        return recipe

    @property
    def graph(self) -> str:
        """The ONNX file."""
        return self.files[0]

    def plan_shapes(self) -> CallShapes | Buckets:
        """What the plan is built for."""
        return shapes_from(self.shapes)

    def profiles(self) -> list[Profile]:
        """The optimization profiles, in the order that Triton's configuration counts them in."""
        return self.plan_shapes().profiles(self.inputs)

    def fitting(self, machine: Machine) -> list[str]:
        """What of `machine` the plan depends on."""
        ampere = self.options.hardware_compatible and machine.is_ampere_or_later
        version = machine.tensorrt.partition(".")[0] if self.options.version_compatible else machine.tensorrt
        return [version, *(["Ampere or later"] if ampere else [machine.gpu, machine.compute])]

    def key(self, machine: Machine) -> str:
        """The same for two plans where either would do for the other."""
        parts = {"builder": BUILDER, "recipe": asdict(self), "machine": self.fitting(machine)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Record:
    """What a plan was built of and for, how long that took, and whether it was asked for the checkpoint's answers."""

    key: str
    machine: Mapping[str, str]
    recipe: Mapping[str, Any]
    plan_bytes: int
    plan_sha256: str
    seconds: float
    created: str  # ISO 8601, UTC
    checked: bool = False

    def write(self, path: Path) -> None:
        """Write it to `path`."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """The record at `path`; None where there is none that can be read."""
        try:
            return cls(**read_json(path))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def built_for(self) -> Machine:
        """The machine it names, with nothing for what it does not say."""
        return Machine(**{name: str(self.machine.get(name, "")) for name in Machine.names()})


def misfit(folder: Path, recipe: Recipe, machine: Machine, *, thorough: bool = True) -> str | None:
    """Why the plan in `folder` cannot be used on `machine`, in words; None where it can.

    `thorough` reads all of the plan, which may be a gigabyte; else its size has to do.
    """
    plan = folder / PLAN
    if not plan.is_file():
        return "there is none yet"
    record = Record.read(folder / RECORD)
    if record is None:
        return "nothing says what it was built for"
    theirs = record.built_for
    if record.key != recipe.key(machine):
        if recipe.fitting(theirs) == recipe.fitting(machine):
            return "it was built from another graph, for other shapes or in another way"
        return f"it was built for {theirs}, and here is {machine}"
    if recipe.options.version_compatible and theirs.version > machine.version:
        return f"it was built by a later TensorRT, {theirs.tensorrt}, and here is {machine.tensorrt}"
    whole = plan.stat().st_size == record.plan_bytes and (not thorough or sha256(plan) == record.plan_sha256)
    return None if whole else "the file is damaged"


def graph_hash(folder: Path, files: Iterable[str]) -> str:
    """SHA-256 of these `files` of `folder`: the graph's own, and those with its weights where it has such."""
    digest = hashlib.sha256()
    for name in files:
        digest.update(name.encode())
        digest.update(bytes.fromhex(sha256(folder / name)))
    return digest.hexdigest()
