"""Extractive question answering: the stretches of a context that answer a question, the likeliest first.

Semantics, names and defaults: the QuestionAnsweringPipeline of transformers 4.57, the last release that has one,
written over arrays. A context that is too long is read in windows that overlap by ``doc_stride`` tokens. The score of
an answer is the product of two probabilities, its first token's to start it and its last one's to end it, among all
tokens of a window's context; those of answers that are written alike are added up, over windows too. Three things
differ: what has the probability 0 is no answer, no token of a question is ever part of one, and ``max_answer_len`` is
called ``max_answer_length``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.errors import InvalidInput
from tritext.parameters import BOOLEAN, COUNT, TOKENS, Cut, Parameters, choice, parameter, up_to
from tritext.results import Form
from tritext.settings import TaskSettings
from tritext.tasks.base import Column, FloatArray, Per, Task, column, firsts, pad, softmax
from tritext.tasks.inputs import Arrays, Rows, decode
from tritext.text.inputs import TextInput
from tritext.text.windows import Windows

QUESTION: Final = Tensor("QUESTION", "BYTES", (1,))
CONTEXT: Final = Tensor("CONTEXT", "BYTES", (1,))
ANSWER: Final = Tensor("ANSWER", "BYTES", (-1,))

_MOST_ANSWERS: Final = 100  # twice as many are cut out and compared in every window
_LONGEST_ANSWER: Final = 512
_WINDOW: Final = 384
_STRIDE: Final = 128
_WORDS: Final = 8  # of a question that is made of a text


@dataclass(frozen=True, slots=True)
class QuestionAnsweringParameters(Parameters):
    """``max_answer_length``, ``doc_stride`` and ``max_seq_len`` are in tokens; a window has ``max_seq_len`` of them.

    Where they are None: 384, or the model's maximum if that is less, and a stride of 128, or of half a window. Nothing
    is ever cut.
    """

    truncation: Literal["window"] = parameter("window", choice("window"))
    top_k: int = parameter(1, up_to(_MOST_ANSWERS))
    max_answer_length: int = parameter(15, up_to(_LONGEST_ANSWER))
    handle_impossible_answer: bool = parameter(False, BOOLEAN)
    doc_stride: int | None = parameter(None, TOKENS)
    max_seq_len: int | None = parameter(None, COUNT)


@dataclass(frozen=True, slots=True)
class Answer:
    """A stretch of a context: ``answer == context[start:end]``, counted in Unicode code points.

    Where ``handle_impossible_answer`` was asked for, the empty one from 0 to 0 says that there is none.
    """

    answer: str
    score: float
    start: int
    end: int

    @property
    def label(self) -> str:
        """For tables."""
        return self.answer


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers to one question, the likeliest first; the rest as in `Classification`, of question and context."""

    form: ClassVar[Form] = "ranked"
    answers: tuple[Answer, ...]
    token_count: int
    truncated: bool


class QuestionAnsweringTask(Task):
    """See the module."""

    name: ClassVar[str] = "question-answering"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    suffix: ClassVar[str] = "ForQuestionAnswering"
    has_labels: ClassVar[bool] = False
    inputs: ClassVar[tuple[Tensor, ...]] = (QUESTION, CONTEXT)
    carried: ClassVar[tuple[Tensor, ...]] = (
        contract.ROW, contract.WHOLE_TEXT, contract.OFFSETS, contract.TOKEN_KIND,
    )  # fmt: skip
    logits: ClassVar[Tensor] = contract.TOKEN_LOGITS
    per: ClassVar[Per] = "token"
    outputs: ClassVar[tuple[Tensor, ...]] = (ANSWER, contract.SCORE, contract.START, contract.END, contract.COUNT)
    windows: ClassVar[bool] = True
    cut: ClassVar[Cut] = "only_second"
    parameters: ClassVar[type[Parameters]] = QuestionAnsweringParameters
    result: ClassVar[type[Any]] = Answers
    entry: ClassVar[type[Any]] = Answer

    def rows(self, inputs: Arrays, settings: TaskSettings, parameters: QuestionAnsweringParameters) -> Rows:
        """Each question with its context, in windows."""
        questions, contexts = (decode(inputs[tensor.name], tensor.name) for tensor in (QUESTION, CONTEXT))
        if len(questions) != len(contexts):
            raise InvalidInput(
                f"CONTEXT has {len(contexts)} rows, QUESTION has {len(questions)}. Send a context for each question."
            )
        for name, texts in ((QUESTION.name, questions), (CONTEXT.name, contexts)):
            if "" in texts:
                raise InvalidInput(f"{name}[{texts.index('')}] is empty. Send a text there.")
        return Rows(
            list(zip(questions, contexts, strict=True)),
            carried={contract.WHOLE_TEXT.name: inputs[CONTEXT.name]},
            names=(QUESTION.name, CONTEXT.name),
            windows=_windows(settings, parameters),
        )

    def answer(
        self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: QuestionAnsweringParameters
    ) -> dict[str, Any]:
        """ANSWER, SCORE, START and END [N, K]; `logits` are [M, L, 2]."""
        del settings
        kinds, offsets = arrays[contract.TOKEN_KIND.name] & ~np.uint8(contract.ELSEWHERE), arrays[contract.OFFSETS.name]
        contexts = arrays[contract.WHOLE_TEXT.name][:, 0]
        rows: list[list[tuple[bytes, float, int, int]]] = []
        for begin, end in pairwise([*firsts(arrays[contract.ROW.name][:, 0]), len(logits)]):
            windows = [Window.of(logits[index], kinds[index], offsets[index]) for index in range(begin, end)]
            found = best(contexts[begin].decode(), windows, parameters)
            rows.append([(each.answer.encode(), each.score, each.start, each.end) for each in found])
        tensors = (ANSWER, contract.SCORE, contract.START, contract.END)
        return pad(*(Column(tensor, [[each[i] for each in row] for row in rows]) for i, tensor in enumerate(tensors)))

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """Of each token of a text, as `judged` has them: the probability that the answer starts, or ends, there."""
        del settings
        return softmax(logits)

    def judged(self, logits: Sequence[FloatArray]) -> FloatArray:
        """Two rows a text, [2 T, L]: over its tokens, where the answer starts and where it ends."""
        rows = np.full((2 * len(logits), max(map(len, logits))), -np.inf, dtype=np.float32)
        for index, each in enumerate(logits):
            rows[2 * index : 2 * index + 2, : len(each)] = each.T
        return rows

    def references(self, texts: Sequence[TextInput], mask_token: str | None) -> list[TextInput]:
        """Pairs as they are; each single text as a context, with some words of another one as question.

        What has no question, or no context, is left out: it is refused when it is asked.
        """
        del mask_token
        kept = [text for text in texts if all(part.strip() for part in ([text] if isinstance(text, str) else text))]
        singles = [text for text in kept if isinstance(text, str)]
        questions = reversed([" ".join(text[:400].split()[:_WORDS])[:40] + "?" for text in singles])
        return [text if isinstance(text, tuple) else (next(questions), text) for text in kept]

    def request(
        self, text: str, pair: str | None, settings: TaskSettings
    ) -> tuple[dict[str, NDArray[np.object_]], dict[str, object]]:
        """One question about one context, or about itself, in windows as long as they can be, which share nothing.

        So a question is refused only if it leaves no room, which the usual stride does sooner.
        """
        inputs = {QUESTION.name: column([text]), CONTEXT.name: column([pair or text])}
        return inputs, {"max_seq_len": settings.max_length, "doc_stride": 0}


@dataclass(frozen=True, slots=True)
class Window:
    """The T tokens of context in one window: their probabilities [T], and where the words lie that they are of [T, 2].

    ``nothing`` is the probability that it has no answer. In float64: a sure model's products of two leave float32.
    """

    starts: NDArray[np.float64]
    ends: NDArray[np.float64]
    words: NDArray[np.int32]
    nothing: float

    @classmethod
    def of(cls, logits: FloatArray, kinds: NDArray[np.uint8], offsets: NDArray[np.int32]) -> "Window":
        """Of `logits` [L, 2]. The first token takes part, for by it a model says that there is no answer."""
        context = np.flatnonzero(kinds != contract.SPECIAL)
        starts, ends = softmax(logits[np.append(0, context)].T.astype(np.float64))
        words = _words(kinds[context] == contract.WORD_START, offsets[context])
        return cls(starts[1:], ends[1:], words, float(starts[0] * ends[0]))

    def spans(self, most: int, longest: int) -> Iterator[tuple[float, int, int]]:
        """The likeliest: score, start and end, at most `most` of at most `longest` tokens, the best first."""
        width = min(longest, len(self.starts))
        if width == 0:
            return
        ends = np.append(self.ends, np.zeros(width - 1))
        scores = (self.starts[:, None] * sliding_window_view(ends, width)).reshape(-1)
        likeliest = np.arange(scores.size) if scores.size <= most else np.argpartition(-scores, most)[:most]
        for index in likeliest[np.argsort(-scores[likeliest], kind="stable")]:
            first, more = divmod(int(index), width)
            if scores[index] > 0.0:
                yield float(scores[index]), int(self.words[first, 0]), int(self.words[first + more, 1])


def _words(is_start: NDArray[np.bool_], offsets: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where the word of each of T tokens starts and ends, [T, 2], as far as it is in the window."""
    number = np.cumsum(is_start)
    first = np.searchsorted(number, number)
    last = np.searchsorted(number, number, side="right") - 1
    return np.stack((offsets[first, 0], offsets[last, 1]), axis=-1)


def _windows(settings: TaskSettings, parameters: QuestionAnsweringParameters) -> Windows:
    """InvalidInput where neighbours would share whole windows, or a window is longer than the model takes."""
    length, stride = parameters.max_seq_len, parameters.doc_stride
    if length is None:
        length = min(settings.max_length, _WINDOW)
    if length > settings.max_length:
        raise InvalidInput(
            f"Parameter max_seq_len is {length}; this model takes {settings.max_length} tokens. Send no more."
        )
    if stride is None:
        stride = min(length // 2, _STRIDE)
    if stride >= length:
        raise InvalidInput(f"Parameter doc_stride is {stride}; it must be less than max_seq_len, which is {length}.")
    return Windows(stride, length)


def best(context: str, windows: Sequence[Window], parameters: QuestionAnsweringParameters) -> list[Answer]:
    """The answers in all `windows` of `context`, the likeliest first. What differs in case only counts as one."""
    found: dict[str, tuple[float, int, int]] = {}
    for window in windows:
        # More than asked for: some become one when they are stretched to whole words.
        for score, start, end in window.spans(2 * parameters.top_k + 10, parameters.max_answer_length):
            key = context[start:end].lower()
            before = found.get(key, (0.0, start, end))
            found[key] = before[0] + score, before[1], before[2]
    answers = [Answer(context[start:end], score, start, end) for score, start, end in found.values()]
    if parameters.handle_impossible_answer:
        answers.append(Answer("", min(window.nothing for window in windows), 0, 0))
    return sorted(answers, key=lambda each: -each.score)[: parameters.top_k]


TASK: Final = QuestionAnsweringTask()
