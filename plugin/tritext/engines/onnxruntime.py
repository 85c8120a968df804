"""ONNX Runtime: runs the exported graph as it is."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tritext.engines.base import Artefact, Graph, Precision, Runner
from tritext.errors import EngineError, ExportError
from tritext.settings import EngineSettings


class OnnxRuntime:
    """The reference among the engines: fp32 on any CPU."""

    name: ClassVar[str] = "onnxruntime"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32",)

    def build(self, graph: Graph, precision: Precision, folder: Path) -> Artefact:
        """Copy the graph, ``model.onnx``, once it is seen to load."""
        del precision
        onnxruntime = _quiet_runtime()
        try:
            onnxruntime.InferenceSession(graph.path, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot load the exported graph: {error}") from error
        for file in graph.path.parent.iterdir():  # the weights of a large graph lie beside it
            shutil.copyfile(file, folder / file.name)
        return Artefact(graph.path.name, "encoder_python", {"onnxruntime": onnxruntime.__version__})

    def runner(self, path: Path, settings: EngineSettings) -> Runner:
        """Open a session on ``model.onnx``."""
        return OnnxRuntimeRunner(path, settings)


class OnnxRuntimeRunner:
    """One session."""

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        del settings
        onnxruntime = _quiet_runtime()
        options = onnxruntime.SessionOptions()
        # Between requests the threads must sleep: the other steps share these cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error

    def run(self, arrays: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float32]:
        """Logits [B, C] or [B, L, C]."""
        logits: NDArray[np.float32] = self._session.run(["logits"], dict(arrays))[0]
        return logits


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
