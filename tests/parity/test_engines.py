"""Engines and precisions: every architecture's logits against PyTorch's in fp32, as shares of the largest logit."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from asking import inputs_of
from numpy.typing import NDArray
from reference import Reference
from zoo import VARIANTS, Zoo

from checkpoints import ARCHITECTURES
from tritext.build.parity import TOLERANCE, compare
from tritext.build.texts import parity_texts
from tritext.engines import ENGINES
from tritext.errors import TritextError
from tritext.pipeline import Pipeline
from tritext.repository import BuiltModel
from tritext.settings import EngineSettings, TaskSettings
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


def in_precision(precision: str, model: BuiltModel) -> Pipeline:
    """`model` with OpenVINO in another precision than it was built for: weights lie in fp32 in any case."""
    settings = EngineSettings.read(model.step("encoder"))
    variant = replace(settings.variants[0], precision=precision)
    encoder = EncoderStage.of(settings, variant, model.step("encoder"))
    tokenizer, postprocess = model.step("tokenizer"), model.step("postprocess")
    return Pipeline(TokenizerStage.load(tokenizer), encoder, PostprocessStage.load(postprocess))


def test_every_engine_is_compared() -> None:
    compared = {variant.engine for variant in VARIANTS.values()}
    assert compared | {"tensorrt"} == set(ENGINES)  # which test_tensorrt.py compares, in ensembles of its own


@pytest.mark.parametrize(
    "name", [name for name in VARIANTS if name.removesuffix(".onnxruntime").removesuffix(".torch") in NAMES]
)
def test_fp32_is_far_within_its_tolerance(name: str, zoo: Zoo, reference: Callable[[str], Reference]) -> None:
    largest, mean = differences(Pipeline.load(zoo.model(name)), reference(name))
    print(f"{name}: {largest:.1e} of the scale, mean {mean:.1e}")
    assert largest < TOLERANCE["fp32"] / 5


@pytest.mark.parametrize("name", NAMES)
def test_bf16_loses_precision_and_nothing_else(name: str, zoo: Zoo, reference: Callable[[str], Reference]) -> None:
    """Random networks round worse than trained ones. A position in the wrong bucket gave 0.2 and more."""
    largest, mean = differences(in_precision("bf16", zoo.model(name)), reference(name))
    print(f"{name} bf16: {largest:.1e} of the scale, mean {mean:.1e}")
    assert largest < 0.1
    assert mean < 0.01


@pytest.mark.parametrize("name", ["mpnet.tokens", "deberta-v2.tokens"])
def test_the_graph_computes_no_position_in_floating_point(name: str, zoo: Zoo) -> None:
    graph = onnx.load(zoo.model(f"{name}.onnxruntime").step("encoder") / "model.onnx").graph
    assert not {"Log", "Ceil", "Floor", "Round"} & {node.op_type for node in graph.node}


@pytest.mark.parametrize("name", ["pii", "spam"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_real_model_is_within_the_tolerance_of_each_precision(name: str, precision: str, zoo: Zoo) -> None:
    model = zoo.model(name)
    settings = TaskSettings.read(model.step("postprocess"))
    parity = compare(in_precision(precision, model), model.reference(), settings, precision)
    print(name, precision, parity)
    assert parity.labels_agree + parity.near_ties == parity.labels
