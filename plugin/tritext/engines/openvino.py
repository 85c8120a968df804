"""OpenVINO: the CPU engine."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tritext.engines.base import Artefact, Graph, Precision, Runner
from tritext.errors import EngineError, ExportError
from tritext.settings import EngineSettings

_HINT: Final[Mapping[str, str]] = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """Compiles the graph for the CPU; bf16 uses the processor's own bf16 instructions where it has them."""

    name: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "bf16")

    def build(self, graph: Graph, precision: Precision, folder: Path) -> Artefact:
        """Write ``model.xml`` and ``model.bin``; weights stay in fp32, the precision is chosen at load."""
        del precision
        openvino = _runtime()
        try:
            # Not openvino.convert_model: that one reports each use to its maker.
            model = openvino.Core().read_model(graph.path)
        except Exception as error:
            raise ExportError(f"OpenVINO cannot convert the exported graph: {error}") from error
        try:
            openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
        except RuntimeError as error:  # all that it says of a full disk is "iostream error"
            raise OSError(errno.EIO, "OpenVINO could not save the model (is the disk full?)") from error
        return Artefact("model.xml", "encoder_python", {"openvino": openvino.__version__})

    def runner(self, path: Path, settings: EngineSettings) -> Runner:
        """Compile ``model.xml`` for this machine's CPU."""
        return OpenVinoRunner(path, settings)


class OpenVinoRunner:
    """One compiled model and one inference request, reused for every call."""

    def __init__(self, path: Path, settings: EngineSettings) -> None:
        openvino = _runtime()
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINT[settings.precision],
            **settings.options,
        }
        try:
            compiled = openvino.Core().compile_model(path, "CPU", options)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot load {path}: {error}") from error
        self._request = compiled.create_infer_request()

    def run(self, arrays: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float32]:
        """Logits [B, C] or [B, L, C]; the array is the caller's own."""
        # share_outputs=False copies: the next call would overwrite the request's own buffer.
        outputs = self._request.infer(dict(arrays), share_inputs=True, share_outputs=False)
        logits: NDArray[np.float32] = outputs[0]
        return logits


def _runtime() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError("OpenVINO is not installed here. Install it with: pip install openvino") from error
    return openvino


ENGINE: Final = OpenVino()
