"""Engines and precisions: every architecture's logits against PyTorch's in fp32, as shares of the largest logit."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from asking import inputs_of
from numpy.typing import NDArray
from reference import Reference
from zoo import VARIANTS, Zoo

from checkpoints import ARCHITECTURES
from tritext.build import BuildOptions, build
from tritext.build.parity import TOLERANCE
from tritext.build.source import locate
from tritext.build.texts import parity_texts
from tritext.engines import ENGINES
from tritext.errors import TritextError
from tritext.pipeline import Pipeline
from tritext.settings import EngineSettings
from tritext.stages.base import Request
from tritext.stages.encoder import EncoderStage
from tritext.stages.postprocess import PostprocessStage
from tritext.stages.tokenizer import TokenizerStage

TEXTS = [text for text in parity_texts(pairs=False) if isinstance(text, str)]
NAMES = [*(f"{name}.tokens" for name in ARCHITECTURES), "deberta-v2.convolved.tokens"]


def differences(pipeline: Pipeline, reference: Reference) -> tuple[float, float]:
    """The largest and the mean difference of a logit, as shares of the largest logit."""
    expected = [reference.outputs(text)[0]["logits"][0].numpy() for text in TEXTS]
    traces = pipeline.run([Request(inputs_of([text])) for text in TEXTS])
    got: list[NDArray[np.float32]] = []
    for trace in traces:
        assert not isinstance(trace, TritextError), trace
        got.append(trace.tensors["logits"][0])
    found = np.concatenate([np.abs(a - b).ravel() for a, b in zip(got, expected, strict=True)])
    scale = max(float(np.abs(logits).max()) for logits in expected)
    return float(found.max()) / scale, float(found.mean()) / scale


def test_every_engine_is_compared() -> None:
    assert {variant.engine for variant in VARIANTS.values()} == set(ENGINES)


@pytest.mark.parametrize("engine", ["", ".onnxruntime"])
@pytest.mark.parametrize("name", NAMES[:-1])
def test_fp32_is_far_within_its_tolerance(
    name: str, engine: str, zoo: Zoo, reference: Callable[[str], Reference]
) -> None:
    largest, mean = differences(Pipeline.load(zoo.model(name + engine)), reference(name))
    print(f"{name} {engine or 'openvino'}: {largest:.1e} of the scale, mean {mean:.1e}")
    assert largest < TOLERANCE["fp32"] / 5


@pytest.mark.parametrize("name", NAMES)
def test_bf16_loses_precision_and_nothing_else(name: str, zoo: Zoo, reference: Callable[[str], Reference]) -> None:
    """Random networks round worse than trained ones. A wrong position or mask would give 0.2 and more."""
    model = zoo.model(name)
    settings = replace(EngineSettings.read(model.step("encoder")), precision="bf16")
    runner = ENGINES["openvino"].runner(model.step("encoder") / settings.artefact, settings)
    pipeline = Pipeline(
        TokenizerStage.load(model.step("tokenizer")), EncoderStage(settings, runner),
        PostprocessStage.load(model.step("postprocess")),
    )  # fmt: skip
    largest, mean = differences(pipeline, reference(name))
    print(f"{name} bf16: {largest:.1e} of the scale, mean {mean:.1e}")
    assert largest < 0.1
    assert mean < 0.01


@pytest.mark.parametrize("name", ["mpnet.tokens", "deberta-v2.tokens"])
def test_the_graph_computes_no_position_in_floating_point(name: str, zoo: Zoo) -> None:
    graph = onnx.load(zoo.model(f"{name}.onnxruntime").step("encoder") / "model.onnx").graph
    assert not {"Log", "Ceil", "Floor", "Round"} & {node.op_type for node in graph.node}


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")])
def test_a_real_model_is_within_the_tolerance_of_each_precision(
    engine: str, precision: str, real_checkpoint: Path, tmp_path: Path
) -> None:
    options = BuildOptions("pii", tmp_path, engine=engine, precision=precision)  # type: ignore[arg-type]
    parity = build(locate(str(real_checkpoint)), options).manifest.parity
    print({key: parity[key] for key in ("max_logit_difference", "mean_logit_difference", "max_score_difference")})
    assert parity["max_logit_difference"] <= parity["tolerance"]["logits"]
    assert parity["labels_agree"] + parity["near_ties"] == parity["labels"]
