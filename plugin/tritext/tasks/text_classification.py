"""Text classification: single label, multi label and regression; single texts and pairs.

Semantics, names and defaults: transformers' TextClassificationPipeline. ``threshold`` is ours.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from tritext import contract
from tritext.contract import Tensor
from tritext.parameters import PROBABILITY, TOP_K, Parameters, choice, parameter
from tritext.settings import TaskSettings
from tritext.tasks.base import Arrays, Column, FloatArray, encoded, pad, sigmoid, softmax

Function = Literal["default", "softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True)
class TextClassificationParameters(Parameters):
    """``top_k``: how many labels a row, None for all. ``threshold``: drop labels that score less."""

    top_k: int | None = parameter(1, TOP_K)
    threshold: float | None = parameter(None, PROBABILITY)
    function_to_apply: Function = parameter("default", choice("default", "softmax", "sigmoid", "none"))


def function_for(settings: TaskSettings) -> Function:
    """The function that turns this checkpoint's logits into scores where the request names none."""
    if settings.problem_type == "regression":
        return "none"
    if settings.problem_type == "multi_label_classification" or len(settings.labels) == 1:
        return "sigmoid"
    return "softmax"


class TextClassification:
    """See the module."""

    name: ClassVar[str] = contract.TEXT_CLASSIFICATION
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    inputs: ClassVar[tuple[Tensor, ...]] = (contract.TEXT, contract.TEXT_PAIR)
    carried: ClassVar[tuple[Tensor, ...]] = ()
    echoed: ClassVar[tuple[Tensor, ...]] = ()
    logits: ClassVar[Tensor] = contract.LOGITS
    outputs: ClassVar[tuple[Tensor, ...]] = (contract.LABEL, contract.SCORE, contract.COUNT)
    parameters: ClassVar[type[Parameters]] = TextClassificationParameters

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """The checkpoint's own function."""
        return _scores(logits, "default", settings)

    def answer(
        self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: TextClassificationParameters
    ) -> dict[str, Any]:
        """LABEL and SCORE [N, K], best first; equal scores keep the checkpoint's order."""
        del arrays
        scores = _scores(logits, parameters.function_to_apply, settings)
        order = (-scores).argsort(axis=-1, kind="stable")[:, : parameters.top_k]
        ranked = [row[picked] for row, picked in zip(scores, order, strict=True)]
        if parameters.threshold is not None:
            kept = [int((row >= parameters.threshold).sum()) for row in ranked]
            ranked = [row[:count] for row, count in zip(ranked, kept, strict=True)]
        labels = encoded(settings.labels)
        named = [labels[picked[: len(row)]] for picked, row in zip(order, ranked, strict=True)]
        return pad(Column(contract.LABEL, named), Column(contract.SCORE, ranked))


def _scores(logits: FloatArray, function: Function, settings: TaskSettings) -> FloatArray:
    if function == "default":
        function = function_for(settings)
    if function == "softmax":
        return softmax(logits)
    return sigmoid(logits) if function == "sigmoid" else logits


TASK: Final = TextClassification()
