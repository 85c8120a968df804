"""Explicit quantisation: a graph with Q/DQ nodes around its matrix products, as TensorRT takes it.

By ONNX Runtime's static quantisation, which is here already; NVIDIA's modelopt would do the same with many more
packages. Weights and activations are symmetric (TensorRT takes no zero points), weights by output channel in int8.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from tritext.engines.base import Graph, IntArray, Precision
from tritext.errors import ExportError


def quantised(graph: Graph, precision: Precision, calls: Sequence[Mapping[str, IntArray]], path: Path) -> Graph:
    """Write `graph` with its products of weights in `precision`, int8 or fp8, to `path`; calibrated on `calls`.

    ExportError where there is nothing to calibrate on, or the graph cannot be quantised.
    """
    if not calls:
        raise ExportError(f"{precision} needs texts to calibrate on, and there are none.")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    path.parent.mkdir(parents=True)
    kind = QuantType.QInt8 if precision == "int8" else QuantType.QFLOAT8E4M3FN
    options: dict[str, Any] = {
        "quant_format": QuantFormat.QDQ,
        "activation_type": kind,
        "weight_type": kind,
        "per_channel": precision == "int8",
        "op_types_to_quantize": ["MatMul"],
        "nodes_to_exclude": list(graph.few),
        # By its own rule for fp8, the spread of values: 448 is far beyond what activations need.
        "calibrate_method": CalibrationMethod.MinMax if precision == "int8" else CalibrationMethod.Distribution,
        "use_external_data_format": len(list(graph.path.parent.iterdir())) > 1,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,  # not attention's own products, whose inputs are all activations
            "OpTypesToExcludeOutputQuantization": ["MatMul"],  # the next product quantises what it takes
        },
    }
    try:
        with _quietly():
            quantize_static(str(graph.path), str(path), _Reader(calls), **options)
    except OSError:
        raise
    except Exception as error:  # whatever the graph makes it raise
        detail = str(error).strip().split("\n", maxsplit=1)[0]
        raise ExportError(f"ONNX Runtime cannot quantise the graph: {detail}") from error
    return Graph(path, graph.inputs, graph.packed, graph.few)


class _Reader:
    """`calls`, as the calibrator asks for them."""

    def __init__(self, calls: Sequence[Mapping[str, IntArray]]) -> None:
        self._calls: Iterator[Mapping[str, IntArray]] = iter(calls)

    def get_next(self) -> dict[str, IntArray] | None:
        """The next call, or None."""
        call = next(self._calls, None)
        return None if call is None else dict(call)


@contextmanager
def _quietly() -> Iterator[None]:
    """It prints as it goes, and advises through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        root.setLevel(level)
