"""Graphs become plans: by the ahead-of-time builder of TensorRT-RTX, which has the same API and needs no GPU."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import checkpoints
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.export import export, input_names
from tritext.build.halves import halved
from tritext.build.quantised import quantised
from tritext.build.source import locate
from tritext.build.weights import load_model
from tritext.engines import tensorrt_builder
from tritext.engines.base import Graph, Precision
from tritext.engines.plan import Recipe, graph_hash
from tritext.engines.shapes import Buckets, CallShapes, shapes_values
from tritext.engines.tensorrt import as_batch_of_one, plan_inputs
from tritext.engines.tensorrt_builder import Builder
from tritext.errors import EngineError, ExportError
from tritext.tasks import task_named

rtx = pytest.importorskip("tensorrt_rtx_bindings")

AMPERE, ADA = "8.0", "8.9"  # fp8 is for the second
LENGTH = checkpoints.MAX_LENGTH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensorrt")


@pytest.fixture(scope="module")
def exported(folder: Path) -> Callable[..., Graph]:
    @cache
    def get(architecture: str, head: str, precision: Precision, *, packed: bool) -> Graph:
        source = folder / f"{architecture}.{head}"
        if not source.exists():
            checkpoints.make(source, checkpoints.ARCHITECTURES[architecture], checkpoints.HEADS[head])
        facts, tokenizer = inspect(locate(str(source)), Overrides(pooling="mean" if head == "none" else None))
        model = load_model(facts)  # anew: an export leaves its marks on it
        path = folder / f"{architecture}.{head}.{precision}.{packed}" / "model.onnx"
        per = task_named(facts.task).per
        return export(model, input_names(model, tokenizer), per, path, packed=packed, precision=precision)

    return get


def placed(graph: Graph, folder: Path) -> Graph:
    """`graph` as it lies beside a recipe."""
    path = folder / "placed.onnx"
    shutil.copyfile(graph.path, path)
    if graph.packed:
        as_batch_of_one(path)
    onnx.checker.check_model(str(path), full_check=True)
    return replace(graph, path=path)


def planned(graph: Graph, precision: str, folder: Path, *targets: str) -> bytes:
    graph = placed(graph, folder)
    return Builder(rtx, targets or [AMPERE]).build(graph.path, recipe_of(graph, precision))


def recipe_of(graph: Graph, precision: str) -> Recipe:
    shapes = CallShapes.up_to(LENGTH, 1024) if graph.packed else Buckets.up_to(LENGTH, 16)
    name = graph.path.name
    inputs = plan_inputs(graph)
    return Recipe((name,), graph_hash(graph.path.parent, [name]), inputs, precision, shapes_values(shapes))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "buckets"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_every_architecture_compiles_with_all_its_profiles(
    architecture: str, precision: Precision, packed: bool, exported: Callable[..., Graph], tmp_path: Path
) -> None:
    graph = exported(architecture, "single", precision, packed=packed)
    onnx.checker.check_model(str(graph.path), full_check=True)  # every operation's types agree
    assert len(planned(graph, precision, tmp_path)) > 10_000


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize(
    ("architecture", "head"),
    [("bert", "tokens"), ("deberta-v2", "tokens"), ("xlm-roberta", "tokens"), ("bert", "masked"), ("bert", "none")],
)  # fmt: skip
def test_other_heads_compile_too(
    architecture: str, head: str, precision: Precision, exported: Callable[..., Graph], tmp_path: Path
) -> None:
    """Of tokens, of masks, and the mean over each text of a packed row."""
    graph = exported(architecture, head, precision, packed=True)
    assert planned(graph, precision, tmp_path, AMPERE, ADA)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("architecture", ["bert", "deberta-v2", "distilbert"])
def test_quantised_graphs_compile(
    architecture: str, precision: Precision, exported: Callable[..., Graph], tmp_path: Path
) -> None:
    base = exported(architecture, "single", "fp16", packed=True)
    calls = [calibration(plan_inputs(base))]
    graph = quantised(base, precision, calls, tmp_path / "q" / "model.onnx")
    kinds = {node.op_type for node in onnx.load(str(graph.path)).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert planned(graph, precision, tmp_path, ADA)


def calibration(inputs: Sequence[str]) -> dict[str, Any]:
    ids = np.random.default_rng(0).integers(5, 300, (2, 16)).astype(np.int32)
    call = {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids),
        "position_ids": np.tile(np.arange(16, dtype=np.int32), (2, 1)),
        "segment_ids": np.ones_like(ids),
        "first_tokens": np.array([0, 16], np.int32),
    }
    return {name: call[name] for name in inputs}


# These checkpoints' weights are drawn some ten times wider than trained ones are, and so is what rounding does.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2e-2), (torch.bfloat16, 0.15)])
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_half_precision_is_near_float_on_the_cpu(
    architecture: str, dtype: torch.dtype, bound: float, exported: Callable[..., Graph], folder: Path
) -> None:
    exported(architecture, "single", "fp32", packed=False)
    facts, tokenizer = inspect(locate(str(folder / f"{architecture}.single")), Overrides())
    model = load_model(facts)
    encoded = tokenizer(list(checkpoints.corpus()[:12]), padding=True, truncation=True, max_length=LENGTH,
                        return_tensors="pt")  # fmt: skip
    with torch.inference_mode():
        exact = model(**encoded).logits
        rounded = halved(model, dtype)(**encoded).logits.float()
    worst, scale = float((exact - rounded).abs().max()), max(1.0, float(exact.abs().max()))
    print(f"{architecture} {dtype}: {worst / scale:.1e} of the largest logit")
    assert 0 < worst <= bound * scale


def odd_graph(path: Path) -> Recipe:
    """A graph with an operation that TensorRT does not have."""
    value = helper.make_tensor_value_info("input_ids", TensorProto.FLOAT, ["rows", "length"])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "length"])
    node = helper.make_node("Det", ["input_ids"], ["logits"], name="/encoder/odd/Det")
    graph = helper.make_graph([node], "odd", [value], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return Recipe((path.name,), graph_hash(path.parent, [path.name]), ("input_ids",), "fp32",
                  shapes_values(Buckets((16,), 2, 1)))  # fmt: skip


def test_a_graph_that_is_refused_names_the_node(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=r"/encoder/odd/Det.*Det"):
        Builder(rtx, [AMPERE]).build(path, odd_graph(path))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    recipe = odd_graph(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ExportError, match="does not take the graph"):
        Builder(rtx, [AMPERE]).build(path, recipe)


def test_shapes_of_another_graph_are_refused(exported: Callable[..., Graph]) -> None:
    graph = exported("bert", "single", "fp32", packed=False)
    other = exported("bert", "single", "fp32", packed=True)
    with pytest.raises(ExportError, match="its recipe has"):
        Builder(rtx, [AMPERE]).build(graph.path, recipe_of(other, "fp32"))


def test_progress_is_told_and_timings_are_kept(exported: Callable[..., Graph], tmp_path: Path) -> None:
    graph = placed(exported("bert", "single", "fp16", packed=True), tmp_path)
    told: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int) -> bool:
        told.append((phase, done, total))
        return True

    timings = tmp_path / "timings"
    Builder(rtx, [AMPERE]).build(graph.path, recipe_of(graph, "fp16"), progress, timings)
    assert len(told) > 20
    assert all(0 < done <= total for _, done, total in told)
    assert timings.stat().st_size > 0
    timings.write_bytes(b"of another TensorRT")
    Builder(rtx, [AMPERE]).build(graph.path, recipe_of(graph, "fp16"), progress, timings)


def test_a_build_can_be_given_up(exported: Callable[..., Graph], tmp_path: Path) -> None:
    graph = placed(exported("bert", "single", "fp16", packed=True), tmp_path)

    def stop(phase: str, done: int, total: int) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Builder(rtx, [AMPERE]).build(graph.path, recipe_of(graph, "fp16"), stop)


class OtherBindings:
    """What `import tensorrt` gives where the bindings are of another version than the library."""

    __version__ = "10.9.0.34"
    Builder = object


def test_bindings_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_builder, "tensorrt_version", lambda: "10.13.3")
    monkeypatch.setattr(tensorrt_builder, "importlib", SimpleNamespace(import_module=lambda _: OtherBindings))
    with pytest.raises(EngineError, match=r"bindings are 10\.9\.0\.34, its library here is 10\.13\.3.*10\.13\.3\.\*"):
        tensorrt_builder.load()
    monkeypatch.setattr(tensorrt_builder, "tensorrt_version", lambda: "10.9.0")
    assert tensorrt_builder.load() is OtherBindings


def test_stubs_for_type_checkers_are_no_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_builder, "importlib", SimpleNamespace(import_module=lambda _: object()))
    with pytest.raises(EngineError, match=r"not installed.*pip install"):
        tensorrt_builder.load()
