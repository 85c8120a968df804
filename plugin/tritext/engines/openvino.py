"""OpenVINO: the CPU engine."""

import errno
import logging
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tritext.engines.base import Artefact, Ingredients, IntArray, Precision, Runner, RunnerOptions
from tritext.engines.machine import processor_lacks
from tritext.errors import EngineError, ExportError

# int8 matrix products leave everything between them in bf16 where the processor has that: a fifth faster than fp32.
_HINTS: Final[Mapping[Precision, str]] = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}
_FILES: Final[Mapping[Precision, str]] = {"fp32": "model.xml", "bf16": "model.xml", "int8": "model.int8.xml"}

# Inputs of so many shapes are kept, each of at most so many numbers: half a megabyte, and most calls of one text.
_KEPT: Final = 32
_SMALL: Final = 4096


class OpenVino:
    """Compiles the graph for the CPU; bf16 uses the processor's own bf16 instructions where it has them.

    int8 is NNCF's post-training quantisation with its transformer scheme: activations of matrix products are
    quantised by tensor, weights by channel, ranges measured on the calibration calls.
    """

    name: ClassVar[str] = "openvino"
    divides: ClassVar[bool] = True
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "bf16", "int8")

    def build(self, ingredients: Ingredients, precision: Precision, folder: Path) -> Artefact:
        """Write ``model.xml`` and ``model.bin`` (fp32 and bf16 share them), or ``model.int8.xml`` and its ``.bin``."""
        openvino = _runtime()
        versions = {"openvino": openvino.__version__}
        path = folder / _FILES[precision]
        parts = (path.name, path.with_suffix(".bin").name)
        if path.exists():
            return Artefact(path.name, parts, "encoder_python", versions)
        try:
            # Not openvino.convert_model: that one reports each use to its maker.
            model = openvino.Core().read_model(ingredients.graph.path)
        except Exception as error:
            raise ExportError(f"OpenVINO cannot convert the exported graph: {error}") from error
        if precision == "int8":
            model, versions["nncf"] = _quantised(model, ingredients)
        try:
            openvino.save_model(model, path, compress_to_fp16=False)
        except RuntimeError as error:  # all that it says of a full disk is "iostream error"
            raise OSError(errno.EIO, "OpenVINO could not save the model (is the disk full?)") from error
        return Artefact(path.name, parts, "encoder_python", versions)

    def automatic(self) -> bool:
        """Always: it is part of every installation that serves."""
        return True

    def lacks(self, precision: Precision) -> str | None:
        """The processor's missing instructions."""
        return processor_lacks(precision)

    def runner(self, path: Path, options: RunnerOptions) -> Runner:
        """Compile the model for this machine's CPU."""
        return OpenVinoRunner(path, options)


class OpenVinoRunner:
    """One compiled model, and an inference request for each stream, reused for every call."""

    uses_cores = True

    def __init__(self, path: Path, options: RunnerOptions) -> None:
        openvino = _runtime()
        hint = _HINTS[options.precision]
        if hint == "bf16" and processor_lacks("bf16"):  # int8 where there is no bf16
            hint = "f32"
        threads = {} if options.threads is None else {"INFERENCE_NUM_THREADS": options.threads}
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": options.streams,
            **threads,
            **({} if options.bound else {"ENABLE_CPU_PINNING": False}),
            **options.engine,
        }
        try:
            compiled = openvino.Core().compile_model(path, "CPU", properties)
        except Exception as error:
            raise EngineError(f"OpenVINO cannot load {path}: {error}") from error
        self._types = {name: port.element_type.to_dtype() for port in compiled.inputs for name in port.get_names()}
        self._ports = len(compiled.inputs)
        self._requests: SimpleQueue[_Request] = SimpleQueue()
        for _ in range(options.streams):
            self._requests.put(_Request(compiled.create_infer_request(), self._types, openvino.Tensor))

    def run(self, arrays: Mapping[str, IntArray]) -> NDArray[np.float32]:
        """Logits of the graph's shape; EngineError where the graph cannot be run."""
        given = {name: arrays[name] for name in self._types if name in arrays}
        if len(given) < self._ports:
            raise EngineError(f"The model takes {', '.join(self._types)}, and was given {', '.join(arrays)}.")
        request = self._requests.get()
        try:
            return request.run(given)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"OpenVINO cannot run the model: {error}") from error
        finally:
            self._requests.put(request)


class _Inputs(NamedTuple):
    """Arrays to write a call's inputs to, and the tensors whose memory they are."""

    arrays: Mapping[str, NDArray[Any]]
    tensors: Mapping[str, Any]


class _Request:
    """An inference request, and inputs of the shapes that it met last.

    New tensors for each call take a server a tenth of a small call's time, to write to those that it has hardly any.
    """

    def __init__(self, request: Any, types: Mapping[str, Any], tensor: Any) -> None:
        self._request, self._types, self._tensor = request, types, tensor
        self._kept: dict[tuple[Any, ...], _Inputs] = {}  # in the order of their last calls
        self._set: _Inputs | None = None

    def run(self, given: Mapping[str, IntArray]) -> NDArray[np.float32]:
        """The logits, for arrays that stay the caller's own."""
        inputs = self._inputs(given)
        for name, array in given.items():
            np.copyto(inputs.arrays[name], array)
        if inputs is not self._set:
            self._set = None  # where it fails, some may be set
            self._request.set_tensors(inputs.tensors)
            self._set = inputs
        # share_outputs=False copies: the next call would overwrite the request's own buffer.
        logits: NDArray[np.float32] = self._request.infer(share_outputs=False)[0]
        return logits

    def _inputs(self, given: Mapping[str, IntArray]) -> _Inputs:
        """Those of the shapes of `given`, whatever is in them: kept ones, or new ones, which are kept if small."""
        shapes = tuple([(name, array.shape) for name, array in given.items()])
        inputs = self._kept.pop(shapes, None) or self._made(given)
        if sum([array.size for array in given.values()]) <= _SMALL:
            self._kept[shapes] = inputs
            if len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return inputs

    def _made(self, given: Mapping[str, IntArray]) -> _Inputs:
        arrays = {name: np.empty(array.shape, self._types[name]) for name, array in given.items()}
        return _Inputs(arrays, {name: self._tensor(array, shared_memory=True) for name, array in arrays.items()})


def _quantised(model: Any, ingredients: Ingredients) -> tuple[Any, str]:
    """`model` in int8, and NNCF's version."""
    os.environ.setdefault("NNCF_CI", "1")  # or it reports each use to its maker
    try:
        import nncf
    except ImportError as error:
        raise ExportError("int8 needs nncf, which is not installed. Install it with: pip install nncf") from error
    if not ingredients.calibration:
        raise ExportError("int8 needs texts to calibrate on, and there are none.")
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    calls = [dict(arrays) for arrays in ingredients.calibration]
    # Also because OpenVINO 2026.4 is wrong about an int8 product of a matrix whose width it does not know.
    ignored = nncf.IgnoredScope(names=list(ingredients.graph.few))
    options = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(calls), "ignored_scope": ignored}
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):  # its progress bars
            quantised = nncf.quantize(model, nncf.Dataset(calls), **options)
    except Exception as error:  # whatever the graph makes it raise
        detail = str(error).strip().split("\n", maxsplit=1)[0]
        raise ExportError(f"NNCF cannot quantise the graph: {detail}") from error
    finally:
        logger.setLevel(level)
    return quantised, nncf.__version__


def _runtime() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError("OpenVINO is not installed here. Install it with: pip install openvino") from error
    return openvino


ENGINE: Final = OpenVino()
