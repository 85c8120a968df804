"""Zero-shot classification: labels that come with the request, judged by a checkpoint for natural language inference.

Semantics, names and defaults: transformers' ZeroShotClassificationPipeline. Each label becomes a hypothesis, which the
text as premise entails or not; so a text becomes as many rows as it has labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.errors import CheckpointError, InvalidInput
from tritext.parameters import BOOLEAN, Cut, Parameters, Rule, parameter
from tritext.settings import TaskSettings
from tritext.tasks.base import Column, FloatArray, Task, column, firsts, pad, softmax
from tritext.tasks.inputs import Arrays, Rows, check_repeated, each_with_list
from tritext.tasks.text_classification import Classification, LabelScore
from tritext.text.inputs import TextInput

CANDIDATE_LABELS: Final = Tensor("CANDIDATE_LABELS", "BYTES", (-1,))
CANDIDATE: Final = Tensor("candidate", "BYTES", (1,))  # of each row that is encoded


def _template(value: object) -> str:
    if not isinstance(value, str) or "{}" not in value:
        raise ValueError
    value.encode()  # ValueError for a lone surrogate
    return value


TEMPLATE: Final = Rule("a string with {} where the label belongs", _template)


@dataclass(frozen=True, slots=True)
class ZeroShotClassificationParameters(Parameters):
    """``multi_label``: each label is judged by itself; else their scores sum to 1."""

    hypothesis_template: str = parameter("This example is {}.", TEMPLATE)
    multi_label: bool = parameter(False, BOOLEAN)


class ZeroShotClassificationTask(Task):
    """See the module."""

    name: ClassVar[str] = "zero-shot-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    inputs: ClassVar[tuple[Tensor, ...]] = (contract.TEXT, CANDIDATE_LABELS)
    carried: ClassVar[tuple[Tensor, ...]] = (contract.ROW, CANDIDATE)
    outputs: ClassVar[tuple[Tensor, ...]] = (contract.LABEL, contract.SCORE, contract.COUNT)
    expands: ClassVar[bool] = True
    cut: ClassVar[Cut] = "only_first"
    parameters: ClassVar[type[Parameters]] = ZeroShotClassificationParameters
    result: ClassVar[type[Any]] = Classification
    entry: ClassVar[type[Any]] = LabelScore

    def accept(self, labels: Sequence[str]) -> None:
        """There must be one for entailment."""
        if _entailment(labels) is None:
            raise CheckpointError(
                f"Zero-shot classification needs a checkpoint for natural language inference, with a label that begins "
                f"with 'entail'. This one has {', '.join(labels)}; name them with --labels if it is one."
            )

    def rows(self, inputs: Arrays, settings: TaskSettings, parameters: ZeroShotClassificationParameters) -> Rows:
        """A pair of text and hypothesis for each label; an empty label at a row's end only fills it up."""
        del settings
        found = each_with_list(inputs, contract.TEXT.name, CANDIDATE_LABELS.name)
        template = parameters.hypothesis_template
        labels = template.count("{}") * sum([len(label) for *_, label in found])
        check_repeated("hypothesis_template", template, len(found), more=labels)
        return Rows(
            [(text, template.replace("{}", label)) for _, text, _, label in found],
            [row for row, *_ in found],
            {CANDIDATE.name: column([label for *_, label in found])},
            (contract.TEXT.name, CANDIDATE_LABELS.name),
        )

    def check(self, input_ids: NDArray[np.int32], row: int, settings: TaskSettings) -> None:
        """A hypothesis is never cut."""
        if len(input_ids) > settings.max_length:
            raise InvalidInput(
                f"CANDIDATE_LABELS[{row}] has a label that is too long: the hypothesis leaves none of the model's "
                f"{settings.max_length} tokens to the text. Send a shorter one."
            )

    def answer(
        self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: ZeroShotClassificationParameters
    ) -> dict[str, Any]:
        """LABEL and SCORE [N, K], all of a row's labels, the best first; `logits` are [M, C]."""
        of, labels = arrays[contract.ROW.name][:, 0], arrays[CANDIDATE.name][:, 0]
        entailment = _entailment(settings.labels) or 0
        contradiction = -1 if entailment == 0 else 0
        ranked_labels, ranked_scores = [], []
        for begin, end in pairwise([*firsts(of), len(of)]):
            own, its = logits[begin:end], labels[begin:end]
            if parameters.multi_label or len(own) == 1:
                scores = softmax(own[:, [contradiction, entailment]])[:, 1]
            else:
                scores = softmax(own[:, entailment])
            order = np.argsort(-scores, kind="stable")
            ranked_labels.append(its[order])
            ranked_scores.append(scores[order])
        return pad(Column(contract.LABEL, ranked_labels), Column(contract.SCORE, ranked_scores))

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """Probabilities of the checkpoint's own classes."""
        del settings
        return softmax(logits)

    def references(self, texts: Sequence[TextInput], mask_token: str | None) -> list[TextInput]:
        """Each text with a hypothesis of some other text's words."""
        del mask_token
        words = cycle([" ".join(text.split()[:3]) for text in texts if isinstance(text, str) and text.strip()][::-1])
        return [(text, f"This example is {next(words)[:40]}.") if isinstance(text, str) else text for text in texts]

    def request(
        self, text: str, pair: str | None, settings: TaskSettings
    ) -> tuple[dict[str, NDArray[np.object_]], dict[str, object]]:
        """One whose only label is the whole hypothesis."""
        del settings
        inputs = {contract.TEXT.name: column([text]), CANDIDATE_LABELS.name: column([pair or ""])}
        return inputs, {"truncation": "right", "hypothesis_template": "{}"}


def _entailment(labels: Sequence[str]) -> int | None:
    """The class that says so."""
    return next((index for index, label in enumerate(labels) if label.lower().startswith("entail")), None)


TASK: Final = ZeroShotClassificationTask()
