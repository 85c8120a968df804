"""Is a faster way to run the encoder accurate enough? Its answers on real texts against the fp32 checkpoint's.

A candidate passes where its labels agree in at least `Bounds.agreement` of all decisions (one a text, a token, or a
class of a multi-label text, two a question: where its answer starts and ends; near ties count like all others; a
regression and an embedding decide nothing) and the 99th percentile of its scores' differences is at most
`Bounds.drift`. A regression's scores are in a unit of its own, so their differences are taken as shares of how far the
checkpoint's scores of these texts spread, their standard deviation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.build.parity import encoder_request
from tritext.errors import TritextError
from tritext.manifest import Example
from tritext.settings import TaskSettings
from tritext.stages.encoder import EncoderStage
from tritext.tasks import task_named

# Of the largest score: of the smallest spread that is believed, the usual bound lets pass what fp32 may be off.
_ROUNDING: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a candidate must reach: share of equal labels, and 99th percentile of the scores' absolute differences."""

    agreement: float = 0.995
    drift: float = 0.1


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How one candidate did. Drifts are absolute differences of scores, 0 to 1 (a regression's: shares of a spread)."""

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
    if settings.task == contract.TEXT_CLASSIFICATION and settings.problem_type == "regression":
        spread = _spread(expected)
        got, expected = got / spread, expected / spread  # its logits are its scores
    drift = task.drift(got, expected, settings)
    return Accuracy(
        decisions=int(agree.size),
        agreement=float(agree.mean()) if agree.size else 1.0,
        drift=float(np.percentile(drift, 99)),
        mean_drift=float(drift.mean()),
        max_drift=float(drift.max()),
    )


def _spread(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The standard deviation of each column of `scores` [R, C], and more than rounding makes of them, [C]."""
    least = _ROUNDING * np.maximum(1.0, np.abs(scores).max(axis=0))
    spread: NDArray[np.float32] = np.maximum(scores.std(axis=0), least).astype(np.float32)
    return spread
