"""Text classification: single label, multi label and regression; single texts and pairs.

Semantics, names and defaults: transformers' TextClassificationPipeline. ``threshold`` is ours, and so are the labels'
own thresholds, which a build may be given: a text's labels are then those that reach theirs.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.parameters import CUT, PROBABILITY, TOP_K, Cut, Parameters, WindowParameters, choice, parameter
from tritext.results import Form
from tritext.settings import TaskSettings
from tritext.tasks.base import Column, FloatArray, Task, encoded, even, firsts, pad, sigmoid, softmax
from tritext.tasks.inputs import Arrays, Rows, one_each, windows_of

THRESHOLDS: Final = "thresholds"  # of the settings' options: the labels' own, by class index
Function = Literal["default", "softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True)
class TextClassificationParameters(WindowParameters):
    """``top_k``: how many labels a row, None for all. ``threshold``: drop labels that score less.

    A ``threshold``, or a ``function_to_apply``, takes the place of the labels' own thresholds.
    ``windows``: what the logits of a text in several windows are made of, their mean (each token counts once, for the
    window that has most of the text around it) or the largest of each class. ``truncation_strategy``: which text of a
    pair is cut.
    """

    top_k: int | None = parameter(1, TOP_K)
    threshold: float | None = parameter(None, PROBABILITY)
    function_to_apply: Function = parameter("default", choice("default", "softmax", "sigmoid", "none"))
    windows: Literal["mean", "max"] = parameter("mean", choice("mean", "max"))
    truncation_strategy: Cut = parameter("longest_first", CUT)


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label of a text. ``score`` is as the model gives it: a probability, or a raw value for a regression."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of one text (or pair), best first; none where `threshold` left none.

    ``token_count`` counts the tokens of the whole text; ``truncated`` says that the model did not see them all.
    """

    form: ClassVar[Form] = "ranked"
    labels: tuple[LabelScore, ...]
    token_count: int
    truncated: bool

    @property
    def label(self) -> str | None:
        """The best label; None where there is none."""
        return self.labels[0].label if self.labels else None

    @property
    def score(self) -> float | None:
        """The best label's score; None where there is no label."""
        return self.labels[0].score if self.labels else None


def function_for(settings: TaskSettings) -> Function:
    """The function that turns this checkpoint's logits into scores where the request names none."""
    if settings.problem_type == "regression":
        return "none"
    if settings.problem_type == "multi_label_classification" or len(settings.labels) == 1:
        return "sigmoid"
    return "softmax"


class TextClassificationTask(Task):
    """See the module."""

    name: ClassVar[str] = contract.TEXT_CLASSIFICATION
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    suffix: ClassVar[str] = "ForSequenceClassification"
    inputs: ClassVar[tuple[Tensor, ...]] = (contract.TEXT, contract.TEXT_PAIR)
    carried: ClassVar[tuple[Tensor, ...]] = (contract.WINDOW,)
    windows: ClassVar[bool] = True
    outputs: ClassVar[tuple[Tensor, ...]] = (contract.LABEL, contract.SCORE, contract.COUNT)
    parameters: ClassVar[type[Parameters]] = TextClassificationParameters
    result: ClassVar[type[Any]] = Classification
    entry: ClassVar[type[Any]] = LabelScore

    def rows(self, inputs: Arrays, settings: TaskSettings, parameters: TextClassificationParameters) -> Rows:
        """A text or pair each, or the windows of each."""
        rows, windows = one_each(inputs), windows_of(parameters, settings)
        return replace(rows, windows=windows) if windows else rows

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """The checkpoint's own function."""
        return _scores(logits, "default", settings)

    def decisions(self, logits: FloatArray, settings: TaskSettings) -> tuple[NDArray[Any], FloatArray]:
        """The best class; yes or no for each where they do not exclude each other; nothing in a regression."""
        if settings.problem_type == "regression":
            return logits[:, :0], logits[:, :0]
        if settings.problem_type == "multi_label_classification" or logits.shape[1] == 1:
            least = logits.dtype.type(0) if (own := _own(settings)) is None else _logit(own)
            return logits > least, np.abs(logits - least)
        return super().decisions(logits, settings)

    def answer(
        self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: TextClassificationParameters
    ) -> dict[str, Any]:
        """LABEL and SCORE [N, K], best first; equal scores keep the checkpoint's order. `logits` are [M, C]."""
        window = arrays.get(contract.WINDOW.name)  # older builds have none
        if window is not None:
            logits = _joined(logits, window, parameters.windows)
        scores = _scores(logits, parameters.function_to_apply, settings)
        least, labels = _least(settings, parameters), encoded(settings.labels)
        if least is None:
            best = _best(scores, parameters.top_k)
            found = np.take_along_axis(scores, best, axis=1)
            return even((contract.LABEL, labels[best]), (contract.SCORE, found))
        order = (-scores).argsort(axis=-1, kind="stable")
        enough = [ranked[row[ranked]] for row, ranked in zip(scores >= least, order, strict=True)]
        picked = [ranked[: parameters.top_k] for ranked in enough]
        return pad(
            Column(contract.LABEL, [labels[each] for each in picked]),
            Column(contract.SCORE, [row[each] for row, each in zip(scores, picked, strict=True)]),
        )

    def request(
        self, text: str, pair: str | None, settings: TaskSettings
    ) -> tuple[dict[str, NDArray[np.object_]], dict[str, object]]:
        """Of a pair the longer text is cut, whichever is the default."""
        inputs, parameters = super().request(text, pair, settings)
        return inputs, {**parameters, "truncation_strategy": self.cut}


def _best(scores: FloatArray, top_k: int | None) -> NDArray[np.intp]:
    """Each row's best classes [N, K], best first; equal scores keep the checkpoint's order."""
    if top_k == 1:
        best: NDArray[np.intp] = scores.argmax(axis=1)[:, None]
        return best
    return (-scores).argsort(axis=1, kind="stable")[:, :top_k]


def _own(settings: TaskSettings) -> FloatArray | None:
    """The labels' own thresholds [C], where the build was given any."""
    found = settings.options.get(THRESHOLDS)
    return None if found is None else np.array(found, dtype=np.float32)


def _least(settings: TaskSettings, parameters: TextClassificationParameters) -> FloatArray | None:
    """The scores [C] that labels must reach; None where there is nothing to reach."""
    if parameters.threshold is not None:
        return np.full(len(settings.labels), parameters.threshold, dtype=np.float32)
    return _own(settings) if parameters.function_to_apply == "default" else None


def _logit(probabilities: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        found: FloatArray = np.log(probabilities / (1 - probabilities))
    return np.clip(found, -1e3, 1e3)


def _joined(logits: FloatArray, window: NDArray[np.int32], rule: Literal["mean", "max"]) -> FloatArray:
    """One row of logits a text, [N, C], of those of its windows [M, C]; `window` [M, 2] as `contract.WINDOW`."""
    if not len(window) or window[-1, 0] == len(logits) - 1:  # each text has one
        return logits
    begins = firsts(window[:, 0])
    if rule == "max":
        return np.maximum.reduceat(logits, begins)
    weights = np.maximum(window[:, 1:], 1).astype(np.float64)
    mean: FloatArray = (np.add.reduceat(logits * weights, begins) / np.add.reduceat(weights, begins)).astype(np.float32)
    return mean


def _scores(logits: FloatArray, function: Function, settings: TaskSettings) -> FloatArray:
    if function == "default":
        function = function_for(settings)
    if function == "softmax":
        return softmax(logits)
    return sigmoid(logits) if function == "sigmoid" else logits


TASK: Final = TextClassificationTask()
