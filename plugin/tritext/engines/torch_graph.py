"""Calls of a fixed size, whose inputs and output stay where they are in a device's memory.

A GPU gets one recording of all kernels in place of some hundred starts, each of which costs microseconds. On a CPU
the same call is simply made again: slower than without, and there to be tested.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from tritext.engines.torch_staging import Shapes, split

Forward = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
Pool = Any  # torch keeps the type of its handle to itself
_WARM_UP: Final = 3  # calls before recording: libraries choose their algorithms and take their memory then


class Fixed:
    """`forward` of inputs of certain `shapes`. Graphs of one `pool` share memory: use an output before the next run.

    `example` holds inputs to record with, as `Staging.filled` gives them. It is recorded on the current stream, which
    must not be a device's default one. RuntimeError where it cannot be recorded.
    """

    def __init__(self, forward: Forward, example: torch.Tensor, shapes: Shapes, device: torch.device, pool: Pool):
        self._vector = example.to(device, copy=True)
        self._inputs = split(self._vector, shapes)
        self._forward = forward
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._record(device, pool)

    def _record(self, device: torch.device, pool: Pool) -> None:
        for _ in range(_WARM_UP):
            self._forward(self._inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), torch.cuda.graph(graph, pool, torch.cuda.current_stream(device)):
            self._output = self._forward(self._inputs)
        self._graph = graph

    def run(self, filled: torch.Tensor) -> torch.Tensor:
        """The output for inputs that `Staging.filled` laid out, on the device."""
        self._vector.copy_(filled, non_blocking=True)
        if self._graph is None:
            return self._forward(self._inputs)
        self._graph.replay()
        return self._output


def pool_for(device: torch.device) -> Pool:
    """Memory for graphs to share; None where there are none."""
    return torch.cuda.graph_pool_handle() if device.type == "cuda" else None
