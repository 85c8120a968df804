"""README's table of architectures, engines and precisions: each cell is built, and compared with transformers.

All cells take some ten minutes (`make matrix`). Here every architecture takes its turn with one of the heads, on the
engines that run on a CPU, in the precisions that need no calibration; TensorRT's own tests have the others.
"""

import os
import warnings
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import checkpoints
import matrix
from checkpoints import MORE_ARCHITECTURES
from matrix import ABSENT, ARCHITECTURES, BEGIN, TASKS, Cell, cells
from tritext.build import BuildOptions, parity
from tritext.build.architectures import REFUSED
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.encoders import EncoderBuilder, step_inputs
from tritext.build.export import input_names
from tritext.build.source import locate
from tritext.build.steps import settings_for
from tritext.build.texts import parity_texts
from tritext.build.weights import load_model
from tritext.engines import ENGINES, engine_named
from tritext.engines.base import Graph, Ingredients
from tritext.engines.batching import Sorted
from tritext.engines.layouts import layout_values
from tritext.engines.packing import Packed
from tritext.engines.plan import Recipe
from tritext.engines.shapes import Buckets, CallShapes
from tritext.errors import TritextError
from tritext.manifest import Example
from tritext.progress import Silent
from tritext.settings import EngineSettings, TaskSettings, Variant
from tritext.stages.encoder import EncoderStage
from tritext.tasks import TASKS as KNOWN
from tritext.tasks import task_named

ALL = os.environ.get("TRITEXT_MATRIX") == "all"
MADE = {**checkpoints.ARCHITECTURES, **MORE_ARCHITECTURES}
ADA = "8.9"
# How far logits may be from the checkpoint's, on average, as a share of the largest. Random weights are drawn far wider
# than trained ones, and rounding does as much more to them, most to MobileBERT's, which normalises nothing on the way:
# so it may also be this many times what transformers itself is off by in bf16. What is wrong is off by 0.3 and more.
MEAN = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2, "int8": 0.06}
TIMES = {"bf16": 1.5, "int8": 8.0}
MOST = 0.15
WORST = {"fp32": parity.TOLERANCE["fp32"], "bf16": 0.3}


def chosen() -> list[tuple[str, str]]:
    """Of each architecture all heads, or one of them in turn."""
    heads = list(TASKS)
    pairs = [(name, head) for name in ARCHITECTURES for head in heads]
    turn = [pair for at, pair in enumerate(pairs) if (at % len(heads)) == at // len(heads) % len(heads)]
    return [pair for pair in (pairs if ALL else turn) if pair not in ABSENT]


@dataclass(frozen=True)
class Exported:
    """A checkpoint with one head as a graph, what it is made of, and its own answers."""

    graph: Graph
    ingredients: Ingredients
    planned: Ingredients  # of a plan, which is calibrated with calls of one shape
    settings: TaskSettings
    examples: list[Example]
    per_text: bool
    rounding: float  # the mean difference of transformers' own logits in bf16, likewise

    def allowed(self, precision: str) -> float:
        """The mean difference that `precision` may have."""
        return max(MEAN[precision], min(MOST, TIMES.get(precision, 0.0) * self.rounding))

    def difference(self, cell: Cell, folder: Path) -> tuple[float, float]:
        """The largest and the mean difference of a logit in `cell`, as shares of the largest logit."""
        engine: Any = engine_named(cell.engine)
        artefact = engine.build(self.ingredients, cell.precision, folder)
        layout = layout_values(Packed() if self.graph.packed else Sorted())
        variant = Variant(cell.engine, cell.precision, artefact.file, layout, float("inf"))
        settings = EngineSettings(
            self.settings.encoder_inputs,
            self.settings.pad_id,
            self.per_text,
            (variant,),
            longest=self.settings.max_length,
            mask_id=self.settings.mask_id,
        )
        stage = EncoderStage.of(settings, variant, folder)
        found = []
        for answer, example in zip(
            stage.process([parity.encoder_request(example, self.settings) for example in self.examples]),
            self.examples,
            strict=True,
        ):
            assert not isinstance(answer, TritextError), answer
            found.append(np.abs(answer["logits"][0] - example.logits).ravel())
        every = np.concatenate(found) / scale(self.examples)
        return float(every.max()), float(every.mean())

    def compile(self, cell: Cell, folder: Path) -> None:
        """Into a plan, by the ahead-of-time builder that needs no GPU."""
        from tritext.engines.tensorrt_builder import Builder

        rtx = pytest.importorskip("tensorrt_rtx_bindings")
        engine: Any = engine_named(cell.engine)
        artefact = engine.build(self.planned, cell.precision, folder)
        path = folder / artefact.file
        assert len(Builder(rtx, [ADA]).build(path, Recipe.read(path.parent))) > 10_000


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda name, head: _export(name, head, tmp_path_factory.mktemp("matrix")))


def _export(name: str, head: str, folder: Path) -> Exported:
    checkpoint = checkpoints.make(folder / "checkpoint", MADE[name], checkpoints.HEADS[head])
    overrides = Overrides(pooling="mean" if head == "none" else None)
    facts, tokenizer = inspect(locate(str(checkpoint)), overrides)
    model, task = load_model(facts), task_named(facts.task)
    options = BuildOptions("it", folder, overrides=overrides)
    settings = settings_for(facts, tokenizer, input_names(model, tokenizer), options)
    texts = task.references(parity_texts(pairs=len(task.texts) > 1), tokenizer.mask_token)
    examples = parity.reference(model, tokenizer, facts, texts)
    builder = EncoderBuilder(model, tokenizer, facts, options, folder, folder, Silent())
    graph = builder.export(settings, examples)
    settings = TaskSettings(**{**vars(settings), "encoder_inputs": step_inputs(graph)})
    shapes = CallShapes(((1, 64), (2, 128))) if graph.packed else Buckets((64, 128), 2, 1)
    planner = EncoderBuilder(model, tokenizer, facts, replace(options, engine="tensorrt"), folder, folder, Silent())
    made = [
        Ingredients(graph, model, list(each._calls(texts[::3], settings, graph)),
                    partial(builder._export, packed=graph.packed), shapes)
        for each in (builder, planner)
    ]  # fmt: skip
    try:
        with torch.autocast("cpu", torch.bfloat16):
            rounded = parity.reference(load_model(facts), tokenizer, facts, texts)
    except RuntimeError:  # DeBERTa fills with a number that bf16 does not have
        rounded = examples
    off = np.concatenate([np.abs(a.logits - b.logits).ravel() for a, b in zip(rounded, examples, strict=True)])
    return Exported(
        graph, made[0], made[1], settings, examples, task.per != "token", float(off.mean()) / scale(examples)
    )


def scale(examples: list[Example]) -> float:
    """The largest logit."""
    return max(float(np.abs(example.logits).max(initial=0.0)) for example in examples)


@pytest.mark.parametrize(("name", "head"), chosen())
def test_each_cell_gives_the_checkpoints_answers(name: str, head: str, exported: Any, tmp_path: Path) -> None:
    wrong = []
    for cell in cells(name, head):
        if not ALL and (cell.engine == "tensorrt" or cell.precision == "int8"):
            continue
        folder = tmp_path / cell.engine / cell.precision
        folder.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries that quantise
            try:
                if cell.engine == "tensorrt":
                    exported(name, head).compile(cell, folder)
                    continue
                worst, mean = exported(name, head).difference(cell, folder)
            except TritextError as error:
                wrong.append((cell, str(error)[-300:]))
                continue
        print(f"{name} {head} {cell.engine} {cell.precision}: {worst:.1e} of the scale, mean {mean:.1e}")
        if worst > WORST.get(cell.precision, 1.0) or mean > exported(name, head).allowed(cell.precision):
            wrong.append((cell, f"{worst:.1e}, mean {mean:.1e}"))
    assert not wrong


def test_readme_has_the_table() -> None:
    readme = matrix.README.read_text(encoding="utf-8")
    assert matrix.parts(readme)[1] == matrix.block(REFUSED), "python tests/matrix.py writes it"
    assert readme.count(BEGIN) == 1


def test_the_table_leaves_nothing_out() -> None:
    """No architecture that is tested, no task, no engine and no precision but torch's fp16, which needs a GPU."""
    assert set(ARCHITECTURES) == set(MADE)
    assert {task for tasks in TASKS.values() for task in tasks} == set(KNOWN)
    assert {name: set(precisions) for name, precisions in matrix.ENGINES.items()} == {
        name: {*engine.precisions} - ({"fp16"} if name == "torch" else set()) for name, engine in ENGINES.items()
    }
