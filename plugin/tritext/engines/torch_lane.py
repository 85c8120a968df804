"""What one call at a time needs for itself on a device: a stream, buffers, and calls of fixed size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from tritext.engines.base import FIRST_TOKENS, IntArray
from tritext.engines.torch_flat import Flat, Shape, fitting
from tritext.engines.torch_graph import Fixed, pool_for
from tritext.engines.torch_staging import Staging

Forward = Callable[[Mapping[str, torch.Tensor], int], torch.Tensor]


class Lane:
    """A way to `device`. On a GPU the lanes' streams run beside each other: one copies while another computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.staging = Staging(device)
        self._stream = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._fixed: dict[Shape, Fixed] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """What is computed inside is computed on this lane."""
        stream = nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
        with torch.inference_mode(), stream:
            yield

    def prepare(self, forward: Forward, example: Flat, shapes: Sequence[Shape]) -> None:
        """Hold calls of `shapes` ready, of inputs such as `example`. RuntimeError where that cannot be.

        The largest is made first, so that the others find room in its memory.
        """
        pool, fixed = pool_for(self._device), {}
        with self.open():
            for shape in sorted(shapes, key=lambda shape: -shape.tokens):
                pieces = example.padded(shape).pieces
                fixed[shape] = Fixed(
                    partial(_at_most, forward, shape.tokens),
                    self.staging.filled(pieces),
                    {name: piece.shape for name, piece in pieces.items()},
                    self._device,
                    pool,
                )
        self._fixed = dict(reversed(fixed.items()))

    def fixed(self, flat: Flat) -> NDArray[np.float32] | None:
        """Logits for `flat` from the smallest call that has room for it; None where none has."""
        shape = fitting(flat, list(self._fixed))
        if shape is None:
            return None
        return self.answer(flat, self._fixed[shape].run(self.staging.filled(flat.padded(shape).pieces)))

    def flat(self, forward: Forward, flat: Flat) -> NDArray[np.float32]:
        """Logits for `flat` as it is."""
        return self.answer(flat, forward(self.staging.to_device(flat.pieces), flat.longest))

    def rows(
        self, forward: Callable[[Mapping[str, torch.Tensor]], torch.Tensor], arrays: Mapping[str, IntArray]
    ) -> NDArray[np.float32]:
        """Logits for `arrays` as they are."""
        return self.staging.to_host(forward(self.staging.to_device(arrays)))

    def answer(self, flat: Flat, logits: torch.Tensor) -> NDArray[np.float32]:
        """Logits [T, C] or [R, L, C] of the texts of `flat`, without what a fixed size added."""
        found = self.staging.to_host(logits)
        return found[: flat.answers] if FIRST_TOKENS in flat.pieces else flat.rows(found[0])


def _at_most(forward: Forward, longest: int, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return forward(given, longest)
