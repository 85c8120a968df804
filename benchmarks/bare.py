"""The encoder of a built model without Triton around it: the limit that a server can only approach."""

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.engines import engine_named
from tritext.engines.base import Runner, RunnerOptions
from tritext.engines.batching import Call, Sorted, Texts
from tritext.engines.layouts import AnyLayout
from tritext.engines.machine import streams, threads
from tritext.engines.packing import Packed
from tritext.repository import BuiltModel, committed
from tritext.settings import EngineSettings, Variant


def built(repository: Path, name: str) -> BuiltModel:
    """The committed model `name`."""
    model = committed(repository, name)
    if model is None:
        raise SystemExit(f"{repository} has no model {name}; benchmarks/README.md says how to build it.")
    return model


class Bare:
    """The variant that serves (or another one), run with any layout."""

    def __init__(self, model: BuiltModel, variant: Variant | None = None) -> None:
        self._folder = model.step("encoder")
        self.settings = EngineSettings.read(self._folder)
        self.variant = variant or self.settings.variants[0]
        engine = engine_named(self.variant.engine)
        precision = next(known for known in engine.precisions if known == self.variant.precision)
        options = RunnerOptions(precision, threads(), streams(), self.variant.options)
        self.runner: Runner = engine.runner(self._folder / self.variant.artefact, options)
        self.is_packed = self.variant.layout["kind"] == Packed.kind

    @property
    def precision(self) -> str:
        """Engine and precision."""
        return f"{self.variant.engine} {self.variant.precision}"

    def calls(self, lengths: NDArray[np.int64], layout: AnyLayout) -> list[Call]:
        """The engine's calls for texts of `lengths`, with random tokens."""
        random = np.random.default_rng(1)
        requests = [
            {
                contract.INPUT_IDS.name: random.integers(1000, 20000, (1, size), dtype=np.int32),
                contract.ATTENTION_MASK.name: np.ones((1, size), dtype=np.int32),
                contract.TOKEN_TYPE_IDS.name: np.zeros((1, size), dtype=np.int32),
            }
            for size in lengths
        ]
        texts = Texts.of(requests, self.settings.inputs, longest=self.settings.longest)
        return list(layout.calls(texts, self.settings.pad_id, per_text=self.settings.per_text))

    def full(self, rows: int, length: int) -> list[Call]:
        """One call of `rows` texts of `length` tokens each, without padding."""
        layout = Packed(length, rows) if self.is_packed else Sorted(rows * length)
        return self.calls(np.full(rows, length), layout)

    def seconds(self, calls: list[Call]) -> float:
        """The time that `calls` take."""
        begun = time.perf_counter()
        for call in calls:
            self.runner.run(call.arrays)
        return time.perf_counter() - begun

    def tokens_per_second(self, calls: list[Call], at_least: float) -> float:
        """Of `calls` repeated for `at_least` seconds; positions computed, padding included."""
        tokens, spent = 0, 0.0
        while spent < at_least:
            spent += self.seconds(calls)
            tokens += sum(call.computed for call in calls)
        return tokens / spent
