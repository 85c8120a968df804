"""ONNX Runtime: runs the exported graph as it is, or with its weights in int8."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tritext.engines.base import Artefact, Graph, Ingredients, IntArray, Precision, Runner, RunnerOptions
from tritext.engines.machine import processor_lacks
from tritext.errors import EngineError, ExportError

_INT8: Final = "model.int8.onnx"


class OnnxRuntime:
    """The second opinion among the CPU engines.

    int8 is its dynamic quantisation: weights by channel, activations when they come; no calibration.
    """

    name: ClassVar[str] = "onnxruntime"
    divides: ClassVar[bool] = True
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8")

    def build(self, ingredients: Ingredients, precision: Precision, folder: Path) -> Artefact:
        """Copy the graph, ``model.onnx``, once it is seen to load; or write ``model.int8.onnx``."""
        onnxruntime = _quiet_runtime()
        path = ingredients.graph.path
        try:
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot load the exported graph: {error}") from error
        versions = {"onnxruntime": onnxruntime.__version__}
        if precision == "int8":
            _quantise(ingredients.graph, folder / _INT8)
            return Artefact(_INT8, (_INT8,), "encoder_python", versions)
        parts = tuple(sorted(file.name for file in path.parent.iterdir()))  # a large graph's weights lie beside it
        for name in parts:
            shutil.copyfile(path.parent / name, folder / name)
        return Artefact(path.name, parts, "encoder_python", versions)

    def automatic(self) -> bool:
        """Always: it is part of every installation that serves."""
        return True

    def lacks(self, precision: Precision) -> str | None:
        """The processor's missing instructions."""
        return processor_lacks(precision)

    def runner(self, path: Path, options: RunnerOptions) -> Runner:
        """Open a session on the artefact."""
        return OnnxRuntimeRunner(path, options)


class OnnxRuntimeRunner:
    """One session."""

    uses_cores = True

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        onnxruntime = _quiet_runtime()
        session = onnxruntime.SessionOptions()
        # Between requests the threads must sleep: the other steps share these cores.
        session.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session.intra_op_num_threads = options.threads or 0
        for key, value in options.engine.items():
            session.add_session_config_entry(key, str(value))
        try:
            self._session = onnxruntime.InferenceSession(path, session, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error
        self._inputs = {entry.name for entry in self._session.get_inputs()}

    def run(self, arrays: Mapping[str, IntArray]) -> NDArray[np.float32]:
        """Logits of the graph's shape; EngineError where the graph cannot be run."""
        given = {name: array for name, array in arrays.items() if name in self._inputs}
        try:
            logits: NDArray[np.float32] = self._session.run(["logits"], given)[0]
        except Exception as error:  # its own exceptions have no common base but this
            raise EngineError(f"ONNX Runtime cannot run the model: {error}") from error
        return logits


def _quantise(graph: Graph, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises through the root logger
    try:
        quantize_dynamic(
            graph.path, target, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=list(graph.few)
        )
    except OSError:
        raise
    except Exception as error:  # whatever the graph makes it raise
        detail = str(error).strip().split("\n", maxsplit=1)[0]
        raise ExportError(f"ONNX Runtime cannot quantise the graph: {detail}") from error
    finally:
        root.setLevel(level)


def _quiet_runtime() -> Any:
    """The module, told not to report its use to its maker. The variable must be set before it is imported."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("ONNX Runtime is not installed here. Install it with: pip install onnxruntime") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


ENGINE: Final = OnnxRuntime()
