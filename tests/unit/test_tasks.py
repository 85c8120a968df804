"""Tasks by hand-worked examples; against the pipeline's own code they are tested in tests/parity."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tritext import contract
from tritext.errors import CheckpointError
from tritext.settings import TaskSettings
from tritext.tasks import TASKS, task_named
from tritext.tasks.base import Column, pad, sigmoid, softmax
from tritext.tasks.text_classification import TASK as TEXTS
from tritext.tasks.text_classification import TextClassificationParameters
from tritext.tasks.token_classification import TASK as TOKENS
from tritext.tasks.token_classification import TokenClassificationParameters

S, W, X = contract.SUBWORD, contract.WORD_START, contract.SPECIAL


def settings(*labels: str, problem_type: str | None = None, task: str = "text-classification") -> TaskSettings:
    return TaskSettings(
        task=task, labels=labels, problem_type=problem_type, max_length=128,
        encoder_inputs=("input_ids", "attention_mask"), pad_id=0, unk_id=None,
    )  # fmt: skip


def floats(*rows: Any) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


# --- arithmetic ---------------------------------------------------------------------------------------------------


def test_softmax_and_sigmoid_stay_finite_and_silent() -> None:
    logits = floats([-1e4, 0.0, 1e4], [-1e30, -1e30, 1e30])
    assert softmax(logits).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert sigmoid(logits).tolist() == [[0, 0.5, 1], [0, 0, 1]]


def test_softmax_sums_to_one_over_the_last_axis() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(softmax(logits).sum(axis=-1), 1, rtol=1e-6)


def test_pads_rows_to_the_longest() -> None:
    arrays = pad(Column(contract.LABEL, [[b"a", b"b"], [], [b"c"]]), Column(contract.SCORE, [[1, 2], [], [3]]))
    assert arrays["LABEL"].tolist() == [[b"a", b"b"], [b"", b""], [b"c", b""]]
    assert arrays["SCORE"].tolist() == [[1, 2], [0, 0], [3, 0]]
    assert arrays["COUNT"].tolist() == [[2], [0], [1]]
    assert arrays["SCORE"].dtype == np.float32


def test_no_answers_at_all_are_no_columns() -> None:
    arrays = pad(Column(contract.LABEL, [[], []]), Column(contract.START, [[], []]))
    assert arrays["LABEL"].shape == arrays["START"].shape == (2, 0)


def test_an_unknown_task_is_refused_by_name() -> None:
    assert [task_named(name).name for name in TASKS] == list(TASKS)
    with pytest.raises(CheckpointError, match=r"summarization.*text-classification, token-classification"):
        task_named("summarization")


# --- text classification ------------------------------------------------------------------------------------------


def classify(logits: NDArray[np.float32], it: TaskSettings, **parameters: Any) -> list[list[tuple[str, float]]]:
    answer = TEXTS.answer(logits, {}, it, TextClassificationParameters(**parameters))
    return [
        [(label.decode(), pytest.approx(float(score), abs=1e-6)) for label, score in zip(*row, strict=True)][:count]
        for *row, count in zip(answer["LABEL"], answer["SCORE"], answer["COUNT"][:, 0], strict=True)
    ]


LOGITS = floats([0.0, np.log(3), np.log(4)], [np.log(2), np.log(5), 0.0])


def test_the_best_label_is_the_default() -> None:
    assert classify(LOGITS, settings("a", "b", "c")) == [[("c", 0.5)], [("b", 0.625)]]


def test_all_labels_come_best_first() -> None:
    assert classify(LOGITS[:1], settings("a", "b", "c"), top_k=None) == [[("c", 0.5), ("b", 0.375), ("a", 0.125)]]


def test_equal_scores_keep_the_checkpoints_order() -> None:
    answer = classify(floats([1, 2, 1, 2]), settings("a", "b", "c", "d"), top_k=None, function_to_apply="none")
    assert answer == [[("b", 2), ("d", 2), ("a", 1), ("c", 1)]]


def test_threshold_keeps_what_reaches_it_and_may_leave_nothing() -> None:
    it = settings("a", "b", "c")
    assert classify(LOGITS, it, top_k=None, threshold=0.25) == [[("c", 0.5), ("b", 0.375)], [("b", 0.625), ("a", 0.25)]]
    assert classify(LOGITS, it, top_k=None, threshold=0.99) == [[], []]


@pytest.mark.parametrize(
    ("labels", "problem_type", "expected"),
    [
        (("a", "b"), None, 0.25),
        (("a", "b"), "single_label_classification", 0.25),
        (("a", "b"), "multi_label_classification", 0.5),
        (("a", "b"), "regression", 0.0),
    ],
)
def test_the_problem_type_decides_the_function(
    labels: tuple[str, ...], problem_type: str | None, expected: float
) -> None:
    logits = floats([0.0, np.log(3)])
    scores = TEXTS.scores(logits, settings(*labels, problem_type=problem_type))
    assert scores[0, 0] == pytest.approx(expected)


@pytest.mark.parametrize("problem_type", [None, "single_label_classification", "multi_label_classification"])
def test_one_label_has_a_sigmoid(problem_type: str | None) -> None:
    assert classify(floats([0.0]), settings("yes", problem_type=problem_type)) == [[("yes", 0.5)]]


# --- token classification -----------------------------------------------------------------------------------------

BIO = ("O", "B-PER", "I-PER", "B-LOC")
TEXT = "Ada Byron, 東京"
#         CLS    Ada     By      ##ron   ,        東京      SEP
PLACES = [(0, 0), (0, 3), (4, 6), (6, 9), (9, 10), (11, 13), (0, 0)]
KINDS = [X, W, W, S, W, W, X]


def entities(
    best: list[int],
    strategy: str,
    *,
    logits: NDArray[np.float32] | None = None,
    labels: tuple[str, ...] = BIO,
    **parameters: Any,
) -> list[tuple[str, str, int, int]]:
    """Label, word, start and end of what is found where token i is surely of class `best[i]`."""
    if logits is None:
        logits = np.eye(len(labels), dtype=np.float32)[best] * 9
    text = np.empty((1, 1), dtype=np.object_)
    text[0, 0] = TEXT.encode()
    arrays = {
        "TEXT": text,
        "offsets": np.array([PLACES], dtype=np.int32),
        "token_kind": np.array([KINDS], dtype=np.uint8),
    }
    it = settings(*labels, task="token-classification")
    read = TokenClassificationParameters(aggregation_strategy=strategy, **parameters)  # type: ignore[arg-type]
    answer = TOKENS.answer(logits[None], arrays, it, read)
    columns = (answer[name][0] for name in ("LABEL", "WORD", "START", "END"))
    return [(label.decode(), word.decode(), start, end) for label, word, start, end in zip(*columns, strict=True)]


def test_none_gives_each_token() -> None:
    found = entities([1, 1, 2, 2, 0, 3, 1], "none")
    assert found == [("B-PER", "Ada", 0, 3), ("I-PER", "By", 4, 6), ("I-PER", "ron", 6, 9), ("B-LOC", "東京", 11, 13)]


def test_simple_joins_neighbours_of_one_tag() -> None:
    assert entities([1, 1, 2, 2, 0, 3, 1], "simple") == [("PER", "Ada Byron", 0, 9), ("LOC", "東京", 11, 13)]


def test_a_beginning_starts_anew() -> None:
    found = entities([1, 1, 1, 2, 0, 3, 1], "simple")
    assert found == [("PER", "Ada", 0, 3), ("PER", "Byron", 4, 9), ("LOC", "東京", 11, 13)]


def test_ignored_labels_are_named_as_they_would_be_given() -> None:
    assert entities([0, 1, 2, 2, 0, 3, 0], "none", ignore_labels=("O", "B-PER", "I-PER")) == [("B-LOC", "東京", 11, 13)]
    assert entities([0, 1, 2, 2, 0, 3, 0], "simple", ignore_labels=("O", "PER")) == [("LOC", "東京", 11, 13)]
    assert entities([0, 1, 2, 2, 0, 3, 0], "simple", ignore_labels=())[1] == ("O", ",", 9, 10)


def test_an_ignored_label_still_parts_its_neighbours() -> None:
    found = entities([0, 2, 0, 0, 2, 2, 0], "simple")
    assert found == [("PER", "Ada", 0, 3), ("PER", ", 東京", 9, 13)]


# "Byron" is two tokens. The first is of class 3 by a little, the second of class 1 by much; on the mean 1 wins too.
SPLIT = floats([9, 0, 0, 0], [9, 0, 0, 0], [0, 0, 0, 0.5], [0, 4, 0, 0], [9, 0, 0, 0], [9, 0, 0, 0], [9, 0, 0, 0])


@pytest.mark.parametrize(("strategy", "label"), [("first", "LOC"), ("average", "PER"), ("max", "PER")])
def test_a_word_gets_one_class(strategy: str, label: str) -> None:
    assert entities([], strategy, logits=SPLIT) == [(label, "Byron", 4, 9)]


def test_labels_without_a_prefix_join_too() -> None:
    found = entities([0, 1, 1, 1, 0, 2, 0], "simple", labels=("O", "PER", "X-LOC"))
    assert found == [("PER", "Ada Byron", 0, 9), ("LOC", "東京", 11, 13)]


def test_special_tokens_are_no_entities_even_where_all_is_special() -> None:
    text = np.empty((1, 1), dtype=np.object_)
    text[0, 0] = b""
    arrays = {"TEXT": text, "offsets": np.zeros((1, 2, 2), np.int32), "token_kind": np.full((1, 2), X, np.uint8)}
    for strategy in ("none", "simple", "first", "average", "max"):
        read = TokenClassificationParameters(aggregation_strategy=strategy, ignore_labels=())
        answer = TOKENS.answer(np.zeros((1, 2, 4), np.float32), arrays, settings(*BIO), read)
        assert answer["COUNT"].tolist() == [[0]]
        assert answer["LABEL"].shape == (1, 0)


def test_threshold_judges_the_group() -> None:
    sure, unsure = [0.0, 9, 0, 0], [0.0, 0, 0, 0.1]
    logits = floats(*([[9.0, 0, 0, 0]] + [sure] + [unsure] * 2 + [[9.0, 0, 0, 0]] * 3))
    assert [found[:2] for found in entities([], "simple", logits=logits)] == [
        ("PER", "Ada"),
        ("LOC", "By"),
        ("LOC", "ron"),
    ]
    assert [found[:2] for found in entities([], "simple", logits=logits, threshold=0.9)] == [("PER", "Ada")]
