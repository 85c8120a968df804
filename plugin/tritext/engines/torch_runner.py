"""Runs a checkpoint's own module on packed or padded rows, on a GPU or a CPU.

Where the model lets its attention be replaced, padding is taken out before anything is computed. Else rows are run
as they come, with a mask that keeps their texts apart.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from tritext import contract
from tritext.engines import torch_attention
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS, IntArray, RunnerOptions
from tritext.engines.machine import usable_cores
from tritext.engines.torch_flat import STARTS, Flat, Shape
from tritext.engines.torch_heads import logits_of
from tritext.engines.torch_lane import Lane
from tritext.engines.torch_load import Loaded, load
from tritext.engines.torch_packing import PackedModel, block_diagonal
from tritext.errors import EngineError

_log: Final = logging.getLogger("tritext")

# Up to here starting the kernels of a transformer takes longer than computing with them.
_GRAPHS: Final = (16, 32, 64, 128, 256, 512, 1024)
_MASKED_GRAPHS: Final = (16, 32, 64, 128)  # a mask over all tokens grows with their square
_OPTIONS: Final = frozenset({"device", "graphs"})


class TorchRunner:
    """A model on one device, for `streams` threads at once.

    `graphs` are the numbers of tokens that it holds calls of fixed size ready for.
    """

    def __init__(self, loaded: Loaded, streams: int, graphs: Sequence[int]) -> None:
        self.uses_cores = loaded.device.type == "cpu"
        self._loaded = loaded
        self._packed = PackedModel(loaded.model, loaded.packing.position_offset) if loaded.packing.packed else None
        self._lanes: SimpleQueue[Lane] = SimpleQueue()
        lanes = [Lane(loaded.device) for _ in range(streams)]
        if self._packed and graphs:
            self._prepare(lanes, graphs)
        for lane in lanes:
            self._lanes.put(lane)

    @classmethod
    def load(cls, path: Path, options: RunnerOptions) -> Self:
        """Load the folder that the engine wrote; EngineError where it is damaged or this machine cannot.

        `options.engine` may have ``device`` (the first GPU if there is one) and ``graphs`` (some on a GPU, none else).
        """
        if unknown := set(options.engine) - _OPTIONS:
            raise EngineError(f"The engine torch has no option {', '.join(sorted(unknown))}; it has device and graphs.")
        device = _device(options.engine.get("device"))
        if options.threads is not None or options.streams > 1:
            torch.set_num_threads(max(1, (options.threads or usable_cores()) // options.streams))
        torch.set_float32_matmul_precision("highest")  # no TF32: fp32 means within rounding of the checkpoint
        loaded = load(path, device, options.precision)
        usual = () if device.type != "cuda" else _GRAPHS if loaded.by_text else _MASKED_GRAPHS
        return cls(loaded, options.streams, options.engine.get("graphs", usual))

    def run(self, arrays: Mapping[str, IntArray]) -> NDArray[np.float32]:
        """Logits of the graph's shape; EngineError where the device cannot, for want of memory above all."""
        lane = self._lanes.get()
        try:
            with lane.open():
                return self._run(lane, arrays)
        except RuntimeError as error:
            detail = str(error).strip().split("\n", maxsplit=1)[0]
            raise EngineError(f"PyTorch cannot run the model: {detail}") from error
        finally:
            self._lanes.put(lane)

    def _run(self, lane: Lane, arrays: Mapping[str, IntArray]) -> NDArray[np.float32]:
        if self._packed is None:
            return lane.rows(self._padded, {name: arrays[name] for name in self._loaded.packing.inputs})
        flat = Flat.of(arrays)
        if (logits := lane.fixed(flat)) is not None:
            return logits
        if self._loaded.by_text:
            return lane.flat(self._logits, flat)
        return lane.rows(self._logits, arrays)

    def _padded(self, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return logits_of(self._loaded.model(**given))

    def _logits(self, given: Mapping[str, torch.Tensor], longest: int = 0) -> torch.Tensor:
        """For packed inputs; `longest` text, where attention goes by text."""
        assert self._packed is not None  # noqa: S101  # for the type checker
        attention: Mapping[str, Any] = (
            torch_attention.arguments(given[STARTS], longest)
            if self._loaded.by_text
            else block_diagonal(self._loaded.model, given[SEGMENT_IDS])
        )
        return self._packed.logits(given, attention)

    def _prepare(self, lanes: Sequence[Lane], graphs: Sequence[int]) -> None:
        shapes, example = [Shape.of(tokens) for tokens in graphs], Flat.of(_example(self._loaded.packing.inputs))
        try:
            for lane in lanes:
                lane.prepare(self._logits, example, shapes)
        except RuntimeError as error:  # the model does what cannot be recorded: it runs all the same
            detail = str(error).strip().split("\n", maxsplit=1)[0]
            _log.warning("The model runs without CUDA graphs, so small calls take longer. %s", detail)


def _example(inputs: Sequence[str]) -> dict[str, IntArray]:
    """One text of one token."""
    names = (contract.INPUT_IDS.name, contract.TOKEN_TYPE_IDS.name, FIRST_TOKENS)
    shapes = {name: (1,) if name == FIRST_TOKENS else (1, 1) for name in names if name in inputs}
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
