"""Runs a checkpoint's own module on packed or padded rows, on a GPU or a CPU.

Where the model lets its attention be replaced, padding is taken out before anything is computed. Else rows are run
as they come, with a mask that keeps their texts apart.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from tritext import contract
from tritext.engines import torch_attention
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS, IntArray, RunnerOptions
from tritext.engines.torch_flat import STARTS, Flat, Shape, fitting
from tritext.engines.torch_graph import Fixed, pool_for
from tritext.engines.torch_load import Loaded, load
from tritext.engines.torch_packing import block_diagonal, packed_logits
from tritext.engines.torch_staging import Staging
from tritext.errors import EngineError

_log: Final = logging.getLogger("tritext")

# Up to here starting the kernels of a transformer takes longer than computing with them.
_GRAPHS: Final = (16, 32, 64, 128, 256, 512, 1024)
_MASKED_GRAPHS: Final = (16, 32, 64, 128)  # a mask over all tokens grows with their square
_OPTIONS: Final = frozenset({"device", "graphs"})


class TorchRunner:
    """A model on one device; `graphs` are the numbers of tokens that it holds a call of fixed size ready for."""

    def __init__(self, loaded: Loaded, graphs: Sequence[int]) -> None:
        self._model, self._packing, self._by_text = loaded.model, loaded.packing, loaded.by_text
        self._device = loaded.device
        self._staging = Staging(loaded.device)
        self._fixed = self._prepared(sorted(graphs)) if loaded.packing.packed else {}

    @classmethod
    def load(cls, path: Path, options: RunnerOptions) -> Self:
        """Load the folder that the engine wrote; EngineError where it is damaged or this machine cannot.

        `options.engine` may have ``device`` (the first GPU if there is one) and ``graphs`` (some on a GPU, none else).
        """
        if unknown := set(options.engine) - _OPTIONS:
            raise EngineError(f"The engine torch has no option {', '.join(sorted(unknown))}; it has device and graphs.")
        device = _device(options.engine.get("device"))
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        torch.set_float32_matmul_precision("highest")  # no TF32: fp32 means within rounding of the checkpoint
        loaded = load(path, device, options.precision)
        usual = () if device.type != "cuda" else _GRAPHS if loaded.by_text else _MASKED_GRAPHS
        return cls(loaded, options.engine.get("graphs", usual))

    def run(self, arrays: Mapping[str, IntArray]) -> NDArray[np.float32]:
        """Logits of the graph's shape."""
        with torch.inference_mode():
            if not self._packing.packed:
                given = self._staging.to_device({name: arrays[name] for name in self._packing.inputs})
                return self._staging.to_host(self._model(**given).logits)
            flat = Flat.of(arrays)
            if shape := fitting(flat, list(self._fixed)):
                pieces = flat.padded(shape).pieces
                return self._answer(flat, self._fixed[shape].run(self._staging.filled(pieces)))
            if self._by_text:
                given = self._staging.to_device(flat.pieces)
                return self._answer(flat, self._logits(given, flat.longest))
            given = self._staging.to_device(arrays)
            return self._staging.to_host(self._logits(given, flat.longest))

    def _logits(self, given: Mapping[str, torch.Tensor], longest: int) -> torch.Tensor:
        attention: Mapping[str, Any] = (
            torch_attention.arguments(given[STARTS], longest)
            if self._by_text
            else block_diagonal(self._model, given[SEGMENT_IDS])
        )
        offset = self._packing.position_offset
        return packed_logits(self._model, given, position_offset=offset, attention=attention)

    def _answer(self, flat: Flat, logits: torch.Tensor) -> NDArray[np.float32]:
        """Of a call of fixed size, only what belongs to the texts."""
        found = self._staging.to_host(logits)
        return found[: flat.texts] if FIRST_TOKENS in flat.pieces else flat.rows(found[0])

    def _prepared(self, graphs: Sequence[int]) -> dict[Shape, Fixed]:
        """In ascending order. The largest is made first, so that the others find room in its memory."""
        pool, fixed = pool_for(self._device), {}
        for shape in map(Shape.of, reversed(graphs)):
            pieces = Flat.of(self._example()).padded(shape).pieces
            try:
                with torch.inference_mode():
                    fixed[shape] = Fixed(
                        partial(self._logits, longest=shape.tokens),
                        self._staging.filled(pieces),
                        {name: piece.shape for name, piece in pieces.items()},
                        self._device,
                        pool,
                    )
            except RuntimeError as error:  # the model does what cannot be recorded: it runs all the same
                detail = str(error).strip().split("\n", maxsplit=1)[0]
                _log.warning("The model runs without CUDA graphs, so small calls take longer. %s", detail)
                return {}
        return dict(reversed(fixed.items()))

    def _example(self) -> dict[str, IntArray]:
        """One text of one token."""
        names = [contract.INPUT_IDS.name, contract.TOKEN_TYPE_IDS.name, FIRST_TOKENS]
        kept = [name for name in names if name in self._packing.inputs]
        shapes = {name: (1,) if name == FIRST_TOKENS else (1, 1) for name in kept}
        arrays = {name: np.zeros(shape, dtype=np.int32) for name, shape in shapes.items()}
        ones = np.ones((1, 1), dtype=np.int32)
        return {**arrays, POSITION_IDS: ones - 1, SEGMENT_IDS: ones}


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        detail = str(error).strip().split("\n", maxsplit=1)[0]
        raise EngineError(f"PyTorch has no device {name!r} here: {detail}") from error
    return device
