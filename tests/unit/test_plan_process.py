"""A plan is built in a process of its own, by TensorRT-RTX under TensorRT's name, which needs no GPU."""

import os
import time
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from building import make_checkpoint, quick_build
from tritext.engines.plan import Recipe, graph_hash
from tritext.errors import EngineError, ExportError
from tritext.serve.ensemble import plan_folder
from tritext.serve.plan_process import build_plan

rtx = pytest.importorskip("tensorrt_rtx_bindings")

# TensorRT-RTX wants to be told for which GPU, since none is here.
MODULE = """
from tensorrt_rtx_bindings import *
from tensorrt_rtx_bindings import Builder as RtxBuilder, ComputeCapability, __version__


class Builder(RtxBuilder):
    def create_builder_config(self):
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(ComputeCapability.SM80, 0)
        return config
"""


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "tensorrt.py").write_text(MODULE)
    paths = [str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("process")
    model = quick_build(make_checkpoint(place / "checkpoint"), place / "repository", engine="tensorrt").model
    found = plan_folder(model)
    assert found is not None
    return found


@pytest.mark.usefixtures("tensorrt")
def test_it_builds_and_tells(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(phase: str, done: int, total: int) -> bool:
        told.append((phase, done, total))
        return True

    plan = tmp_path / "model.plan"
    build_plan(folder, Recipe.read(folder), plan, tmp_path / "timings", progress)
    assert plan.stat().st_size > 10_000
    assert len(told) > 20


@pytest.mark.usefixtures("tensorrt")
def test_a_refused_graph_names_the_node(folder: Path, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("input_ids", TensorProto.FLOAT, ["rows", "length"])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", "length"])
    node = helper.make_node("Det", ["input_ids"], ["logits"], name="/odd/Det")
    graph = helper.make_graph([node], "odd", [value], [result])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "model.onnx")
    recipe = replace(Recipe.read(folder), files=("model.onnx",), sha256=graph_hash(tmp_path, ["model.onnx"]))
    recipe.write(tmp_path)
    with pytest.raises(ExportError, match="/odd/Det"):
        build_plan(tmp_path, recipe, tmp_path / "plan", tmp_path / "timings", lambda *_: True)


@pytest.mark.usefixtures("tensorrt")
def test_giving_up_ends_the_process(folder: Path, tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int) -> bool:
        raise KeyboardInterrupt

    plan = tmp_path / "model.plan"
    with pytest.raises(KeyboardInterrupt):
        build_plan(folder, Recipe.read(folder), plan, tmp_path / "timings", stop)
    time.sleep(0.2)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(plan).encode() in _read(path)]
    assert not left
    assert not plan.exists()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"not installed.*pip install"):
        build_plan(folder, Recipe.read(folder), tmp_path / "plan", tmp_path / "timings", lambda *_: True)


@pytest.mark.usefixtures("tensorrt")
def test_a_plan_that_cannot_be_written_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot be written"):
        build_plan(folder, Recipe.read(folder), tmp_path / "no" / "plan", tmp_path / "timings", lambda *_: True)
