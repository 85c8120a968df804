"""Between numpy and a device: one copy in and one out, through memory that a GPU reaches without the processor."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from tritext.engines.base import IntArray

Shapes = Mapping[str, tuple[int, ...]]


class Staging:
    """Reused buffers on the host, page-locked where `device` is a GPU; they grow with what passes.

    A copy runs beside what the host does next, so `to_host` must have ended before `filled` is called again.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ints = self._buffer(0, torch.int32)
        self._floats = self._buffer(0, torch.float32)

    def _buffer(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        # Twice what is needed: page-locking takes as long as many a call.
        return torch.empty(2 * size, dtype=dtype, pin_memory=self._device.type == "cuda")

    def filled(self, pieces: Mapping[str, IntArray]) -> torch.Tensor:
        """All `pieces` end to end in a host buffer; valid until the next call."""
        size = sum(piece.size for piece in pieces.values())
        if size > self._ints.numel():
            self._ints = self._buffer(size, torch.int32)
        np.concatenate([piece.ravel() for piece in pieces.values()], out=self._ints[:size].numpy())
        return self._ints[:size]

    def to_device(self, pieces: Mapping[str, IntArray]) -> dict[str, torch.Tensor]:
        """`pieces` on the device, copied as one."""
        vector = self.filled(pieces).to(self._device, non_blocking=True)
        return split(vector, {name: piece.shape for name, piece in pieces.items()})

    def to_host(self, tensor: torch.Tensor) -> NDArray[np.float32]:
        """A copy of `tensor` in fp32; waits for the device."""
        size = tensor.numel()
        if size > self._floats.numel():
            self._floats = self._buffer(size, torch.float32)
        host = self._floats[:size].view(tensor.shape)
        host.copy_(tensor, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        return host.numpy().copy()


def split(vector: torch.Tensor, shapes: Shapes) -> dict[str, torch.Tensor]:
    """Views of `vector`, in the order of `shapes`."""
    parts = torch.split(vector, [math.prod(shape) for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
