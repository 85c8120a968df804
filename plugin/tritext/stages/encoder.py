"""The second step: token ids in, logits out. Requests of every length are taken together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.engines import engine_named
from tritext.engines.base import Runner
from tritext.engines.batching import Rows, micro_batches
from tritext.errors import TritextError
from tritext.settings import EngineSettings
from tritext.stages.base import Answer, Request


class EncoderStage:
    """Regroups the rows of all requests into micro-batches of like length, and runs the engine on each."""

    def __init__(self, settings: EngineSettings, runner: Runner) -> None:
        self._settings = settings
        self._runner = runner

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Make the stage from its version folder (``settings.json`` and the engine's artefact)."""
        settings = EngineSettings.read(folder)
        return cls(settings, engine_named(settings.engine).runner(folder / settings.artefact, settings))

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        """Logits [N, C] or [N, L, C] for each request, padded as its ids were."""
        rows = Rows.of([request.inputs for request in requests], self._settings.inputs)
        results: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows)
        for batch in micro_batches(rows.lengths):
            logits = self._runner.run(rows.padded(batch, self._settings.pad_id))
            for place, index in enumerate(batch):
                results[index] = logits[place]
        answers: list[Answer | TritextError] = []
        start = 0
        for request in requests:
            ids = request.inputs[contract.INPUT_IDS.name]
            answers.append({contract.LOGITS.name: _stacked(results[start : start + len(ids)], ids.shape)})
            start += len(ids)
        return answers


def _stacked(rows: Sequence[NDArray[np.float32]], shape: tuple[Any, ...]) -> NDArray[np.float32]:
    """Stack rows [C], or rows [l, C] of their own lengths, the latter to the length of the ids' `shape`."""
    if rows[0].ndim == 1:
        return np.stack(rows)
    stacked = np.zeros((*shape, rows[0].shape[-1]), dtype=np.float32)
    for index, row in enumerate(rows):
        size = min(len(row), shape[1])
        stacked[index, :size] = row[:size]
    return stacked
