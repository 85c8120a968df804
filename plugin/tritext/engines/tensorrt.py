"""TensorRT: a native plan, built on the machine that serves it.

What a build makes is the graph, whose types are the plan's, and a recipe (see `plan.py`); `tritext prepare` makes the
plan of them where there is a GPU. Until then, and wherever there is none, the same graph can be run on the CPU, which
shows what its types do to the answers.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.engines.base import Artefact, Graph, Ingredients, IntArray, Precision, Runner, RunnerOptions
from tritext.engines.plan import RECIPE, PlanOptions, Recipe, graph_hash
from tritext.engines.remote import CallModel, connected
from tritext.engines.shapes import CallShapes, shapes_values
from tritext.errors import EngineError, ExportError
from tritext.naming import ENGINE_ROLE, sibling

_BASE: Final[Mapping[Precision, Precision]] = {"int8": "fp16", "fp8": "fp16"}  # what is around the quantised products


class TensorRt:
    """The engine as a build sees it; `automatic` is never, since a build cannot measure what serves elsewhere."""

    name: ClassVar[str] = "tensorrt"
    divides: ClassVar[bool] = False
    precisions: ClassVar[tuple[Precision, ...]] = ("fp16", "bf16", "fp32", "int8", "fp8")

    def build(self, ingredients: Ingredients, precision: Precision, folder: Path) -> Artefact:
        """Write the graph that computes in `precision` and ``plan.json`` into a folder of their own below `folder`."""
        if ingredients.shapes is None:
            raise ExportError("TensorRT needs to know the shapes that calls will have.")
        target = folder / f"tensorrt-{precision}"
        target.mkdir()
        graph = self._graph(ingredients, precision, folder / f"graph-{precision}")
        if graph.packed:
            as_batch_of_one(graph.path)
        inputs = plan_inputs(graph)
        files = [graph.path, *sorted(path for path in graph.path.parent.iterdir() if path != graph.path)]
        for path in files:
            shutil.move(path, target / path.name)
        names = tuple(path.name for path in files)
        shapes, plan = shapes_values(ingredients.shapes), ingredients.plan or PlanOptions()
        recipe = Recipe(names, graph_hash(target, names), inputs, precision, shapes, plan)
        recipe.write(target)
        template = "engine_tensorrt" if graph.packed else "encoder_tensorrt"
        parts = tuple(f"{target.name}/{name}" for name in (*names, RECIPE))
        return Artefact(f"{target.name}/{graph.path.name}", parts, template, _versions())

    @staticmethod
    def _graph(ingredients: Ingredients, precision: Precision, folder: Path) -> Graph:
        if precision == "fp32":
            shutil.copytree(ingredients.graph.path.parent, folder)
            return replace(ingredients.graph, path=folder / ingredients.graph.path.name)
        if ingredients.export is None:
            raise ExportError(f"The graph cannot be written again in {precision}.")
        base = ingredients.export(_BASE.get(precision, precision), folder / "model.onnx")
        if precision not in _BASE:
            return base
        from tritext.build.quantised import quantised

        return quantised(base, precision, ingredients.calibration, folder.with_name(f"{folder.name}-q") / "model.onnx")

    def automatic(self) -> bool:
        """Never: a build cannot measure here what will serve elsewhere."""
        return False

    def lacks(self, precision: Precision) -> str | None:
        """Nothing: the machine that serves is another one, and `prepare` asks it."""
        del precision
        return None

    def runner(self, path: Path, options: RunnerOptions) -> Runner:
        """The plan's own Triton model where there is a Triton; else the graph at `path`, on the CPU."""
        call = connected()
        return CpuGraph(path, options) if call is None else RemotePlan(path, call)


class RemotePlan:
    """Calls the Triton model that holds the plan, which belongs to the encoder step in whose folder `path` is."""

    uses_cores = False
    is_remote = True  # it may be loaded after its callers: nothing can be asked of it while they are

    def __init__(self, path: Path, call: CallModel) -> None:
        folder = sibling(path.parent, ENGINE_ROLE)
        recipe = Recipe.read(folder)
        self._model = folder.parent.name
        self._inputs = recipe.inputs
        self._call = call

    def run(self, arrays: Mapping[str, IntArray]) -> NDArray[np.float32]:
        """Logits of the graph's shape; EngineError where the model fails."""
        one = {name: arrays[name][None] for name in self._inputs}
        logits: NDArray[np.float32] = self._call(self._model, one, contract.LOGITS.name)[0]
        return logits


class CpuGraph:
    """The plan's graph on the CPU, slowly, with the plan's shapes enforced.

    Every operation's result is rounded as the graph says (ONNX Runtime); in bf16, which that does not have, as the
    processor does it (OpenVINO).
    """

    uses_cores = True

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        self._runner = _cpu_runner(path, options)
        recipe = Recipe.read(path.parent)
        self._profiles = recipe.profiles()
        self._is_packed = isinstance(recipe.plan_shapes(), CallShapes)

    def run(self, arrays: Mapping[str, IntArray]) -> NDArray[np.float32]:
        """Logits of the graph's shape; EngineError where no profile of the plan has the arrays' shapes."""
        if self._is_packed:
            arrays = {name: arrays[name][None] for name in self._profiles[0]}
        shapes = {name: arrays[name].shape for name in self._profiles[0]}
        if not any(_holds(profile, shapes) for profile in self._profiles):
            raise EngineError(f"No profile of the plan holds the shapes {shapes}.")
        logits = self._runner.run(arrays)
        texts: NDArray[np.float32] = logits[0] if self._is_packed else logits
        return texts


def _holds(profile: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return all(
        all(low <= size <= high for low, size, high in zip(profile[name][0], shape, profile[name][2], strict=True))
        for name, shape in shapes.items()
    )


def _cpu_runner(path: Path, options: RunnerOptions) -> Runner:
    from tritext.engines import onnxruntime, openvino

    # It would move fp8's nodes past operations that do not take fp8.
    settings = {"session.disable_quant_qdq": "1"} if options.precision == "fp8" else {}
    plain = RunnerOptions("fp32", options.threads, options.streams, settings)
    if options.precision != "bf16":
        return onnxruntime.OnnxRuntimeRunner(path, plain)
    rounding: Precision = "bf16" if openvino.ENGINE.lacks("bf16") is None else "fp32"
    return openvino.OpenVinoRunner(path, RunnerOptions(rounding, options.threads, options.streams))


def as_batch_of_one(path: Path) -> None:
    """Give all inputs and the output of the packed graph at `path` one more dimension in front, of size 1.

    So Triton can take a call for a batch of one, see `CallShapes.max_batch_size`.
    """
    import onnx
    from onnx import helper

    model = onnx.load(str(path), load_external_data=False)
    graph = model.graph
    graph.initializer.append(helper.make_tensor("batch_axis", onnx.TensorProto.INT64, [1], [0]))
    before, after = [], []
    for each in graph.input:
        before.append(helper.make_node("Squeeze", [each.name, "batch_axis"], [f"{each.name}.rows"]))
        for node in graph.node:
            node.input[:] = [f"{name}.rows" if name == each.name else name for name in node.input]
        _add_dimension(each)
    for each in graph.output:
        for node in graph.node:
            node.output[:] = [f"{name}.rows" if name == each.name else name for name in node.output]
            node.input[:] = [f"{name}.rows" if name == each.name else name for name in node.input]
        after.append(helper.make_node("Unsqueeze", [f"{each.name}.rows", "batch_axis"], [each.name]))
        _add_dimension(each)
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, str(path))


def _add_dimension(value: Any) -> None:
    dimensions = list(value.type.tensor_type.shape.dim)
    del value.type.tensor_type.shape.dim[:]
    value.type.tensor_type.shape.dim.add().dim_value = 1
    value.type.tensor_type.shape.dim.extend(dimensions)


def plan_inputs(graph: Graph) -> tuple[str, ...]:
    """All inputs of `graph`, in its own order."""
    import onnx

    return tuple(each.name for each in onnx.load(str(graph.path), load_external_data=False).graph.input)


def _versions() -> dict[str, str]:
    import onnx

    return {"onnx": onnx.__version__}


ENGINE: Final = TensorRt()
