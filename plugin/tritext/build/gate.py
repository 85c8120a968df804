"""Is a faster way to run the encoder accurate enough? Its answers on real texts against the fp32 checkpoint's.

A candidate passes where its labels agree in at least `Bounds.agreement` of all decisions (one a text, a token, or a
class of a multi-label text, two a question: where its answer starts and ends; near ties count like all others; a
regression and an embedding decide nothing) and the 99th percentile of its scores' differences is at most
`Bounds.drift`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.build.parity import encoder_request
from tritext.errors import TritextError
from tritext.manifest import Example
from tritext.settings import TaskSettings
from tritext.stages.encoder import EncoderStage
from tritext.tasks import task_named


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a candidate must reach: share of equal labels, and 99th percentile of the scores' absolute differences."""

    agreement: float = 0.995
    drift: float = 0.1


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How one candidate did. Drifts are absolute differences of scores, 0 to 1 (a regression's: its own unit)."""

    decisions: int
    agreement: float
    drift: float  # 99th percentile
    mean_drift: float
    max_drift: float

    def fault(self, bounds: Bounds) -> str | None:
        """What it fails, in words; None where it passes."""
        if self.agreement < bounds.agreement:
            return f"{self.agreement:.2%} of labels agree, {bounds.agreement:.2%} are needed"
        if not self.drift <= bounds.drift:  # a NaN fails too
            return f"scores drift by {self.drift:.3f}, {bounds.drift:g} is allowed"
        return None


def accuracy(stage: EncoderStage, examples: Sequence[Example], settings: TaskSettings) -> Accuracy:
    """Run `examples` through `stage`, 32 at a time as requests would come; raises what the stage raises."""
    logits: list[NDArray[np.float32]] = []
    for start in range(0, len(examples), 32):
        answers = stage.process([encoder_request(each, settings) for each in examples[start : start + 32]])
        for answer in answers:
            if isinstance(answer, TritextError):
                raise answer
            logits.append(answer[contract.LOGITS.name][0])
    task = task_named(settings.task)
    got, expected = task.judged(logits), task.judged([each.logits for each in examples])
    agree = task.decisions(got, settings)[0] == task.decisions(expected, settings)[0]
    drift = task.drift(got, expected, settings)
    return Accuracy(
        decisions=int(agree.size),
        agreement=float(agree.mean()) if agree.size else 1.0,
        drift=float(np.percentile(drift, 99)),
        mean_drift=float(drift.mean()),
        max_drift=float(drift.max()),
    )
