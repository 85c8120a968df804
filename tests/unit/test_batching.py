"""Micro-batches: every row once, within the budget, nothing read from padding."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tritext.engines.batching import TOKEN_BUDGET, Rows, micro_batches
from tritext.settings import EngineSettings
from tritext.stages.base import Request
from tritext.stages.encoder import EncoderStage

lengths = st.lists(st.integers(1, 700), min_size=1, max_size=60).map(lambda values: np.array(values, dtype=np.int64))
NAMES = ("input_ids", "attention_mask", "token_type_ids")


@given(lengths, st.integers(1, 800))
def test_every_row_once_and_within_the_budget(sizes: NDArray[np.int64], budget: int) -> None:
    batches = list(micro_batches(sizes, budget))
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or sizes[batch].max() * len(batch) <= budget


@given(lengths)
def test_rows_of_like_length_are_together(sizes: NDArray[np.int64]) -> None:
    ends = [(sizes[batch].min(), sizes[batch].max()) for batch in micro_batches(sizes)]
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(ends))


def test_a_row_over_the_budget_is_alone_and_the_others_are_not() -> None:
    batches = [batch.tolist() for batch in micro_batches(np.array([TOKEN_BUDGET + 1, 8, 8, 8]))]
    assert batches == [[1, 2, 3], [0]]


def test_a_budget_is_used_up() -> None:
    assert [len(batch) for batch in micro_batches(np.full(9, 128), 512)] == [4, 4, 1]


def test_no_rows_no_batches() -> None:
    assert list(micro_batches(np.array([], dtype=np.int64))) == []


class Recorder:
    """An engine whose logits [B, L, 2] are the ids and the types, so that each can be told."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, arrays: dict[str, NDArray[np.int32]]) -> NDArray[np.float32]:
        assert set(arrays) == set(NAMES)
        ids, mask, types = (arrays[name] for name in NAMES)
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.int32)}
        assert (ids[mask == 0] == 99).all()
        assert (types[mask == 0] == 0).all()
        self.shapes.append(ids.shape)
        return np.stack([ids, types], axis=-1).astype(np.float32)


class FirstToken(Recorder):
    """One whose logits [B, 2] are of the first token."""

    def run(self, arrays: dict[str, NDArray[np.int32]]) -> NDArray[np.float32]:
        return super().run(arrays)[:, 0]


def request(rows: list[list[int]]) -> Request:
    """Ids as given and types, their negatives; padded with what must not be read."""
    shape = (len(rows), max(map(len, rows)) + 3)
    ids, mask = np.full(shape, -7, np.int32), np.zeros(shape, np.int32)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return Request({"input_ids": ids, "attention_mask": mask, "token_type_ids": -ids})


rows_of = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=80), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(st.lists(rows_of, min_size=1, max_size=5))
def test_each_request_gets_its_own_rows_back_in_order(texts: list[list[list[int]]]) -> None:
    recorder = Recorder()
    stage = EncoderStage(EngineSettings("x", "fp32", "x", NAMES, pad_id=99), recorder)
    answers = stage.process([request(rows) for rows in texts])
    assert all(shape[0] == 1 or shape[0] * shape[1] <= TOKEN_BUDGET for shape in recorder.shapes)
    for rows, answer in zip(texts, answers, strict=True):
        assert isinstance(answer, dict)
        logits = answer["logits"]
        assert logits.shape == (len(rows), max(map(len, rows)) + 3, 2)
        for row, found in zip(rows, logits, strict=True):
            assert found[: len(row), 0].tolist() == row
            assert found[: len(row), 1].tolist() == [-value for value in row]


@settings(max_examples=30, deadline=None)
@given(st.lists(rows_of, min_size=1, max_size=5))
def test_logits_of_whole_texts_keep_their_order_too(texts: list[list[list[int]]]) -> None:
    stage = EncoderStage(EngineSettings("x", "fp32", "x", NAMES, pad_id=99), FirstToken())
    for rows, answer in zip(texts, stage.process([request(rows) for rows in texts]), strict=True):
        assert isinstance(answer, dict)
        assert answer["logits"][:, 0].tolist() == [row[0] for row in rows]


def test_an_input_that_the_graph_does_not_take_is_not_given() -> None:
    rows = Rows.of([request([[1, 2], [3]]).inputs], ("input_ids", "attention_mask"))
    assert set(rows.padded(np.array([1, 0]), 99)) == {"input_ids", "attention_mask"}
    assert rows.padded(np.array([1, 0]), 99)["input_ids"].tolist() == [[3, 99], [1, 2]]
