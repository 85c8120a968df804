"""Token classification: entities with their place in the text.

Semantics, names and defaults: transformers' TokenClassificationPipeline, written over arrays. Two things
differ: WORD is the text between START and END (the pipeline gives detokenised tokens), and ``threshold``
is ours.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.parameters import NAMES, PROBABILITY, Parameters, WindowParameters, choice, parameter
from tritext.results import Form
from tritext.settings import TaskSettings
from tritext.tasks.base import Column, FloatArray, Per, Task, firsts, pad, softmax
from tritext.tasks.inputs import Arrays, Rows, one_each, windows_of

Strategy = Literal["none", "simple", "first", "average", "max"]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenClassificationParameters(WindowParameters):
    """``ignore_labels``: entities to leave out, by the name they would be given."""

    aggregation_strategy: Strategy = parameter("none", choice("none", "simple", "first", "average", "max"))
    ignore_labels: tuple[str, ...] = parameter(("O",), NAMES)
    threshold: float | None = parameter(None, PROBABILITY)


@dataclass(frozen=True, slots=True)
class Entity:
    """A stretch of a text with its label: ``word == text[start:end]``, counted in Unicode code points."""

    label: str
    score: float
    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TokenClassification:
    """The entities of one text in the order of the text; the rest as in `Classification`."""

    form: ClassVar[Form] = "spans"
    entities: tuple[Entity, ...]
    token_count: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Spans:
    """S stretches of one text: class index [S], score [S], start and end [S] in code points."""

    classes: IntArray
    scores: FloatArray
    starts: NDArray[np.int32]
    ends: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tags:
    """The classes of a checkpoint as BIO tags."""

    tag: IntArray  # by class: which tag; B-PER and I-PER share one
    begins: NDArray[np.bool_]  # by class: does it start with "B-"
    group_names: tuple[str, ...]  # by class: the name of a group that starts with it

    @classmethod
    def of(cls, labels: tuple[str, ...]) -> "Tags":
        """Split each label at its "B-" or "I-"; a label without either is a tag by itself."""
        tags = [label[2:] if label.startswith(("B-", "I-")) else label for label in labels]
        index = {tag: i for i, tag in enumerate(dict.fromkeys(tags))}
        return cls(
            np.array([index[tag] for tag in tags], dtype=np.int64),
            np.array([label.startswith("B-") for label in labels], dtype=np.bool_),
            tuple(label.split("-", 1)[-1] for label in labels),
        )


class TokenClassificationTask(Task):
    """See the module."""

    name: ClassVar[str] = contract.TOKEN_CLASSIFICATION
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    suffix: ClassVar[str] = "ForTokenClassification"
    inputs: ClassVar[tuple[Tensor, ...]] = (contract.TEXT,)
    carried: ClassVar[tuple[Tensor, ...]] = (
        contract.ROW, contract.WHOLE_TEXT, contract.OFFSETS, contract.TOKEN_KIND,
    )  # fmt: skip
    windows: ClassVar[bool] = True
    logits: ClassVar[Tensor] = contract.TOKEN_LOGITS
    per: ClassVar[Per] = "token"
    outputs: ClassVar[tuple[Tensor, ...]] = (
        contract.LABEL, contract.SCORE, contract.WORD, contract.START, contract.END, contract.COUNT,
    )  # fmt: skip
    parameters: ClassVar[type[Parameters]] = TokenClassificationParameters
    result: ClassVar[type[Any]] = TokenClassification
    entry: ClassVar[type[Any]] = Entity

    def rows(self, inputs: Arrays, settings: TaskSettings, parameters: TokenClassificationParameters) -> Rows:
        """A text each, or the windows of each."""
        rows = replace(one_each(inputs), windows=windows_of(parameters, settings))
        return replace(rows, carried={contract.WHOLE_TEXT.name: inputs[contract.TEXT.name]})

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """Softmax over the classes of each token."""
        del settings
        return softmax(logits)

    def answer(
        self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: TokenClassificationParameters
    ) -> dict[str, Any]:
        """Entities of each text in its order, [N, K]; `logits` are [M, L, C].

        The windows of a text are stitched: of each token those logits count that come from its own window.
        """
        if contract.ROW.name in arrays:
            begins = firsts(arrays[contract.ROW.name][:, 0])
            texts = arrays[contract.WHOLE_TEXT.name][begins]
        else:  # an older build
            begins, texts = np.arange(len(logits)), arrays[contract.TEXT.name]
        offsets, kinds = arrays[contract.OFFSETS.name], arrays[contract.TOKEN_KIND.name]
        names, tags = _names(settings.labels, parameters.aggregation_strategy)
        ignored = np.array([name in parameters.ignore_labels for name in names], dtype=np.bool_)
        rows: list[Spans] = []
        for begin, end in pairwise([*begins, len(logits)]):
            real = kinds[begin:end] <= contract.SUBWORD
            found = _spans(
                softmax(logits[begin:end][real]), offsets[begin:end][real], kinds[begin:end][real], tags,
                parameters.aggregation_strategy,
            )  # fmt: skip
            rows.append(_keep(found, ~ignored[found.classes], parameters.threshold))
        return _columns(rows, names, texts.reshape(-1))


def _names(labels: tuple[str, ...], strategy: Strategy) -> tuple[tuple[str, ...], Tags]:
    tags = Tags.of(labels)
    return (labels if strategy == "none" else tags.group_names), tags


def _spans(
    scores: FloatArray, offsets: NDArray[np.int32], kinds: NDArray[np.uint8], tags: Tags, strategy: Strategy
) -> Spans:
    """Tokens (scores [T, C]) to spans: words first where the strategy asks for them, then groups of one tag."""
    if len(scores) == 0:
        return Spans(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int32), np.zeros(0, np.int32))
    if strategy in {"none", "simple"}:
        spans = _best(scores, offsets[:, 0], offsets[:, 1])
    else:
        spans = _words(scores, offsets, kinds, strategy)
    return spans if strategy == "none" else _groups(spans, tags)


def _best(scores: FloatArray, starts: NDArray[np.int32], ends: NDArray[np.int32]) -> Spans:
    classes = scores.argmax(axis=-1)
    return Spans(classes, scores[np.arange(len(scores)), classes], starts, ends)


def _words(scores: FloatArray, offsets: NDArray[np.int32], kinds: NDArray[np.uint8], strategy: Strategy) -> Spans:
    """Give each word one class: its first token's, its surest token's, or that of the tokens' mean."""
    is_start = kinds == contract.WORD_START
    is_start[0] = True
    first = np.flatnonzero(is_start)
    last = np.append(first[1:], len(scores)) - 1
    if strategy == "first":
        chosen = scores[first]
    elif strategy == "average":
        sizes = (last - first + 1).astype(np.float32)
        chosen = np.add.reduceat(scores, first, axis=0) / sizes[:, None]
    else:
        best = scores.max(axis=-1)
        surest = [f + int(best[f : end + 1].argmax()) for f, end in zip(first, last, strict=True)]
        chosen = scores[surest]
    return _best(chosen, offsets[first, 0], offsets[last, 1])


def _groups(spans: Spans, tags: Tags) -> Spans:
    """Join neighbours of one tag; a class with B- always starts anew. A group's score is its members' mean."""
    tag = tags.tag[spans.classes]
    is_start = tags.begins[spans.classes]
    is_start[1:] |= tag[1:] != tag[:-1]
    is_start[0] = True
    first = np.flatnonzero(is_start)
    last = np.append(first[1:], len(tag)) - 1
    sizes = (last - first + 1).astype(np.float32)
    scores = np.add.reduceat(spans.scores, first) / sizes
    return Spans(spans.classes[first], scores, spans.starts[first], spans.ends[last])


def _keep(spans: Spans, wanted: NDArray[np.bool_], threshold: float | None) -> Spans:
    if threshold is not None:
        wanted = wanted & (spans.scores >= threshold)
    return Spans(spans.classes[wanted], spans.scores[wanted], spans.starts[wanted], spans.ends[wanted])


def _columns(rows: list[Spans], names: tuple[str, ...], texts: NDArray[np.object_]) -> dict[str, Any]:
    words = []
    for row, raw in zip(rows, texts, strict=True):
        text = raw.decode() if len(row.classes) else ""
        words.append([text[start:end].encode() for start, end in zip(row.starts, row.ends, strict=True)])
    return pad(
        Column(contract.LABEL, [[names[i].encode() for i in row.classes] for row in rows]),
        Column(contract.SCORE, [row.scores for row in rows]),
        Column(contract.WORD, words),
        Column(contract.START, [row.starts for row in rows]),
        Column(contract.END, [row.ends for row in rows]),
    )


TASK: Final = TokenClassificationTask()
