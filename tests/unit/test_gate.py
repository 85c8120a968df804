"""The accuracy gate: what is counted and measured, on logits whose answer is worked out by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tritext.build.gate import Accuracy, Bounds, accuracy
from tritext.engines.batching import Sorted
from tritext.errors import InvalidInput, TritextError
from tritext.manifest import Example
from tritext.settings import EngineSettings, TaskSettings
from tritext.stages.base import Answer, Request
from tritext.stages.encoder import EncoderStage

Logits = NDArray[np.float32]
INPUTS = ("input_ids", "attention_mask")


def settings(task: str, labels: int, problem_type: str | None = None) -> TaskSettings:
    return TaskSettings(task, tuple(map(str, range(labels))), problem_type, 512, INPUTS, 0, None)


TEXT = settings("text-classification", 2, "single_label_classification")


class Table:
    """An engine that answers each text, which is told by its first id, from `logits`; [C], or [L, C] a text."""

    uses_cores = False

    def __init__(self, logits: Sequence[Any]) -> None:
        self._logits = [np.asarray(each, dtype=np.float32) for each in logits]

    def run(self, arrays: Mapping[str, NDArray[np.int32]]) -> Logits:
        found = [self._logits[ids[0] - 1] for ids in arrays["input_ids"]]
        if found[0].ndim == 1:
            return np.stack(found)
        padded = np.zeros((*arrays["input_ids"].shape, found[0].shape[-1]), np.float32)
        for row, each in zip(padded, found, strict=True):
            row[: len(each)] = each
        return padded


def measured(expected: Sequence[Any], got: Sequence[Any], task: TaskSettings = TEXT) -> Accuracy:
    """How an engine does that gives `got` where the checkpoint gives `expected`."""
    examples = []
    for number, each in enumerate(expected, start=1):
        logits = np.asarray(each, dtype=np.float32)
        ids = np.full(logits.shape[0] if logits.ndim == 2 else 3, number, dtype=np.int32)
        examples.append(Example("", None, ids, np.zeros_like(ids), logits))
    per_text = examples[0].logits.ndim == 1
    stage = EncoderStage(EngineSettings(INPUTS, 0, per_text, ()), Table(got), Sorted(64))
    return accuracy(stage, examples, task)


def probability(margin: float) -> float:
    """Of the first of two classes whose logits differ by `margin`."""
    return 1 / (1 + float(np.exp(-margin)))


def test_equal_logits_are_a_perfect_score() -> None:
    logits = np.random.default_rng(0).normal(size=(100, 2))
    assert measured(logits, logits) == Accuracy(100, 1.0, 0.0, 0.0, 0.0)


def test_labels_of_texts() -> None:
    """Adding the same to all logits changes nothing; each label that differs counts, near tie or not."""
    expected = np.tile([2.0, 0.0], (200, 1))
    got = expected + 5
    got[:3] = [0.0, 1e-6]
    found = measured(expected, got)
    assert (found.decisions, found.agreement) == (200, 1 - 3 / 200)
    assert found.max_drift == pytest.approx(probability(2) - 0.5, abs=1e-5)
    assert found.mean_drift == pytest.approx(3 / 200 * (probability(2) - 0.5), abs=1e-5)


def test_the_drift_that_99_of_100_keep_to() -> None:
    expected = np.tile([2.0, 0.0], (1000, 1))
    got = expected.copy()
    got[:9, 0] = 3.0  # fewer than one in a hundred
    assert measured(expected, got).drift == 0
    got[:50, 0] = 3.0
    assert measured(expected, got).drift == pytest.approx(probability(3) - probability(2), abs=1e-6)


def test_each_class_of_a_multi_label_text_is_a_decision() -> None:
    task = settings("text-classification", 3, "multi_label_classification")
    expected = np.tile([2.0, -2.0, 1.0], (10, 1))
    got = expected.copy()
    got[0] = [2.0, 0.5, -1.0]
    found = measured(expected, got, task)
    assert (found.decisions, found.agreement) == (30, pytest.approx(1 - 2 / 30))
    assert found.max_drift == pytest.approx(probability(0.5) - probability(-2), abs=1e-6)


@pytest.mark.parametrize("unit", [0.01, 1, 1000])
def test_a_regressions_drift_is_a_share_of_how_far_its_scores_spread(unit: float) -> None:
    """Whatever its unit: one that answers the same to every text does not pass."""
    task = settings("text-classification", 1, "regression")
    expected = unit * np.linspace(1, 5, 50)[:, None]
    found = measured(expected, expected + 0.1 * unit, task)
    assert found.agreement == 1
    assert (found.drift, found.max_drift) == (pytest.approx(0.1 / np.linspace(1, 5, 50).std(), rel=1e-3),) * 2
    assert found.fault(Bounds()) is None
    assert measured(expected, list(np.full_like(expected, expected.mean())), task).fault(Bounds()) is not None


def test_each_value_of_a_regression_has_a_spread_of_its_own() -> None:
    task = settings("text-classification", 2, "regression")
    expected = np.stack([np.linspace(0, 1000, 50), np.linspace(0, 1, 50)], axis=1)
    got = expected.copy()
    got[:, 1] = 0.5
    assert measured(expected, got, task).drift > 1


def test_a_regression_whose_scores_are_all_alike_may_round() -> None:
    task = settings("text-classification", 1, "regression")
    expected = np.full((50, 1), 7.0)
    assert measured(expected, expected + 5e-4, task).fault(Bounds()) is None
    assert measured(expected, expected + 5e-2, task).fault(Bounds()) is not None


def test_each_token_is_a_decision() -> None:
    task = settings("token-classification", 3)
    expected = [np.eye(3)[[0, 1, 2, 0]] * 4, np.eye(3)[[1]] * 4]
    got = [np.array(each) for each in expected]
    got[0][2] = [4, 0, 0]
    found = measured(expected, got, task)
    assert (found.decisions, found.agreement) == (5, pytest.approx(4 / 5))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_fails_whatever_is_allowed(wrong: float) -> None:
    expected = np.tile([2.0, 0.0], (100, 1))
    got = expected.copy()
    got[:, 0] = wrong  # argmax takes both for the largest: the labels agree
    with np.errstate(invalid="ignore"):
        found = measured(expected, got)
    assert found.fault(Bounds(0.5, 1.0)) is not None


def test_a_stage_that_refuses_a_text() -> None:
    class Refusing:
        def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
            return [InvalidInput("no") for _ in requests]

    example = Example("", None, np.ones(2, np.int32), np.zeros(2, np.int32), np.zeros(2, np.float32))
    stage: Any = Refusing()
    with pytest.raises(InvalidInput, match="no"):
        accuracy(stage, [example], TEXT)


@pytest.mark.parametrize(
    ("agreement", "drift", "fault"),
    [
        (0.995, 0.1, None),
        (1.0, 0.0, None),
        (0.994, 0.0, "99.40% of labels agree, 99.50% are needed"),
        (0.994, 0.5, "99.40% of labels agree, 99.50% are needed"),
        (1.0, 0.101, "scores drift by 0.101, 0.1 is allowed"),
        (1.0, float("nan"), "scores drift by nan, 0.1 is allowed"),
    ],
)
def test_the_bounds_themselves_pass(agreement: float, drift: float, fault: str | None) -> None:
    assert Accuracy(1000, agreement, drift, 0.0, 1.0).fault(Bounds()) == fault


def test_a_question_decides_where_its_answer_starts_and_where_it_ends() -> None:
    """Over the tokens of each text, however long the others are; and not between the two columns of a token."""
    short, long = [[5, 0], [1, 9], [0, 0]], [[0, 0], [4, 0], [8, 1], [0, 2], [3, 6]]
    moved = [[0, 0], [4, 0], [8, 1], [0, 7], [3, 6]]
    task = settings("question-answering", 0)

    found = measured([short, long], [short, moved], task)
    assert (found.decisions, found.agreement) == (4, 3 / 4)
    ends = np.exp([0.0, 0.0, 1.0, 2.0, 6.0]), np.exp([0.0, 0.0, 1.0, 7.0, 6.0])
    wanted, got = (each / each.sum() for each in ends)
    assert found.max_drift == pytest.approx(np.abs(wanted - got).max(), rel=1e-5)

    assert measured([short, long], [short, long], task).fault(Bounds()) is None
