"""Calls of padded rows: every text once, within the budget, nothing read from padding; and the stage above them."""

from collections.abc import Mapping
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tritext.engines.batching import Call, Sorted, Texts
from tritext.engines.fixed import Bucketed, PackedCalls
from tritext.engines.layouts import AnyLayout, layout_from, layout_values
from tritext.engines.packing import Packed
from tritext.engines.shapes import CallShapes
from tritext.errors import InvalidInput
from tritext.settings import EngineSettings
from tritext.stages.base import COMPUTED_TOKENS, ENCODER_CALLS, TEXTS, TOKENS, Request, process_isolated
from tritext.stages.encoder import EncoderStage

lengths = st.lists(st.integers(1, 700), min_size=1, max_size=60)
NAMES = ("input_ids", "attention_mask", "token_type_ids")
PAD = 99


def texts_of(sizes: list[int], longest: int = 0) -> Texts:
    """Texts of these lengths; each token is told by its value, and its type is the negative."""
    ids = np.concatenate([[*1000 * index + np.arange(size)] for index, size in enumerate(sizes)], dtype=np.int32)
    return Texts({"input_ids": ids, "token_type_ids": -ids}, np.array(sizes, dtype=np.int64), longest=longest)


def calls_of(sizes: list[int], layout: Sorted, *, per_text: bool = False, longest: int = 0) -> list[Call]:
    return list(layout.calls(texts_of(sizes, longest), PAD, per_text=per_text))


@given(lengths, st.integers(1, 800))
def test_every_text_once_and_within_the_budget(sizes: list[int], budget: int) -> None:
    calls = calls_of(sizes, Sorted(budget))
    assert sorted(index for call in calls for index in call.indices) == list(range(len(sizes)))
    for call in calls:
        assert len(call.indices) == 1 or call.computed <= budget
        assert call.arrays["input_ids"].shape == (len(call.indices), max(sizes[index] for index in call.indices))


@given(lengths)
def test_texts_of_like_length_are_together(sizes: list[int]) -> None:
    groups = [[sizes[index] for index in call.indices] for call in calls_of(sizes, Sorted())]
    assert all(max(first) <= min(second) for first, second in pairwise(groups))


@pytest.mark.parametrize("layout", [Sorted(512), Packed(128, 4)])
def test_calls_are_short_while_others_wait_and_long_again_after(layout: AnyLayout) -> None:
    texts, waiting = texts_of([32] * 64), cycle([True] * 2 + [False])
    calls = list(layout.calls(texts, PAD, per_text=False, brief=lambda: next(waiting)))
    assert [call.computed for call in calls[:3]] == [256] * 2 + [512]
    assert sorted(index for call in calls for index in call.indices) == list(range(64))


@given(lengths, st.integers(1, 800))
def test_a_row_holds_its_text_and_then_padding(sizes: list[int], budget: int) -> None:
    for call in calls_of(sizes, Sorted(budget)):
        assert set(call.arrays) == set(NAMES)
        assert {array.dtype for array in call.arrays.values()} == {np.dtype(np.int32)}
        assert call.spans == [(row, 0, sizes[index]) for row, index in enumerate(call.indices)]
        for row, index in enumerate(call.indices):
            size, width = sizes[index], call.arrays["input_ids"].shape[1]
            tokens = list(1000 * index + np.arange(size))
            assert call.arrays["input_ids"][row].tolist() == tokens + [PAD] * (width - size)
            assert call.arrays["token_type_ids"][row].tolist() == [-token for token in tokens] + [0] * (width - size)
            assert call.arrays["attention_mask"][row].tolist() == [1] * size + [0] * (width - size)


def test_a_text_over_the_budget_is_alone_and_the_others_are_not() -> None:
    assert [call.indices for call in calls_of([513, 8, 8, 8], Sorted(512))] == [[1, 2, 3], [0]]


def test_a_budget_is_used_up() -> None:
    assert [len(call.indices) for call in calls_of([128] * 9, Sorted(512))] == [4, 4, 1]


def test_logits_of_whole_texts_are_in_the_order_of_their_rows() -> None:
    (call,) = calls_of([3, 2, 1], Sorted(512), per_text=True)
    assert call.spans is None
    assert [(index, row.tolist()) for index, row in call.logits(np.arange(6, dtype=np.float32).reshape(3, 2))] == [
        (2, [0, 1]), (1, [2, 3]), (0, [4, 5])
    ]  # fmt: skip


# --- the texts of requests ---------------------------------------------------------------------------------------


def request(rows: list[list[int]]) -> Request:
    """Ids as given and types, their negatives; padded with what must not be read."""
    shape = (len(rows), max(map(len, rows)) + 3)
    ids, mask = np.full(shape, -7, np.int32), np.zeros(shape, np.int32)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    return Request({"input_ids": ids, "attention_mask": mask, "token_type_ids": -ids})


def test_an_input_that_the_graph_does_not_take_is_not_given() -> None:
    texts = Texts.of([request([[1, 2], [3]]).inputs], ("input_ids", "attention_mask"))
    assert set(texts.values) == {"input_ids"}
    (call,) = Sorted(512).calls(texts, PAD, per_text=False)
    assert set(call.arrays) == {"input_ids", "attention_mask"}
    assert call.arrays["input_ids"].tolist() == [[3, PAD], [1, 2]]
    (call,) = Packed().calls(texts, PAD, per_text=False)
    assert set(call.arrays) == {"input_ids", "position_ids", "segment_ids"}


def test_rows_have_few_widths_and_none_is_longer_than_the_model_takes() -> None:
    alone = calls_of([*range(1, 501)], Sorted(1), longest=500)
    widths = [call.arrays["input_ids"].shape[1] for call in alone]
    assert set(widths) == {*range(8, 497, 8), 497, 498, 499, 500}
    (call,) = calls_of([61] * 8, Sorted(512), longest=500)
    assert call.arrays["input_ids"].shape == (8, 64)
    counts = [len(call.indices) for call in calls_of([57] * 9, Sorted(512), longest=500)]
    assert counts == [8, 1]  # nine would be over the budget with their padding


def test_texts_are_taken_out_of_their_requests_in_order() -> None:
    texts = Texts.of([request([[1, 2], [3]]).inputs, request([[4, 5, 6]]).inputs], NAMES)
    assert texts.values["input_ids"].tolist() == [1, 2, 3, 4, 5, 6]
    assert texts.values["token_type_ids"].tolist() == [-1, -2, -3, -4, -5, -6]
    assert texts.lengths.tolist() == [2, 1, 3]
    assert len(texts) == 3


# --- the stage ---------------------------------------------------------------------------------------------------

Arrays = Mapping[str, NDArray[np.int32]]
LAYOUTS: list[AnyLayout] = [
    Sorted(512), Sorted(8), Sorted(64), Packed(128, 4), Packed(64, 8), Packed(32, 1),
    PackedCalls(((1, 16), (1, 64), (4, 64), (1, 512))), Bucketed((4, 16, 64), 3),
]  # fmt: skip


class ByToken:
    """An engine whose logits [R, L, 2] are the ids and the types, so that each can be told."""

    uses_cores = False

    def __init__(self) -> None:
        self.computed = 0
        self.calls = 0

    def run(self, arrays: Arrays) -> NDArray[np.float32]:
        self.calls += 1
        self.computed += arrays["input_ids"].size
        mask = arrays["segment_ids" if "segment_ids" in arrays else "attention_mask"]
        assert (arrays["input_ids"][mask == 0] == PAD).all()
        assert (arrays["token_type_ids"][mask == 0] == 0).all()
        return np.stack([arrays["input_ids"], arrays["token_type_ids"]], axis=-1).astype(np.float32)


class ByText(ByToken):
    """One whose logits [T, 2] are of each text's first token."""

    uses_cores = False

    def run(self, arrays: Arrays) -> NDArray[np.float32]:
        logits = super().run(arrays)
        return logits.reshape(-1, 2)[arrays["first_tokens"]] if "first_tokens" in arrays else logits[:, 0]


def stage(runner: Any, layout: AnyLayout, *, per_text: bool) -> EncoderStage:
    return EncoderStage(EngineSettings(NAMES, PAD, per_text, (), longest=1000), runner, layout)


rows_of = st.lists(st.lists(st.integers(1, 90), min_size=1, max_size=80), min_size=1, max_size=8)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@settings(max_examples=30, deadline=None)
@given(texts=st.lists(rows_of, min_size=1, max_size=5))
def test_each_request_gets_its_own_rows_back_in_order(layout: AnyLayout, texts: list[list[list[int]]]) -> None:
    answers = stage(ByToken(), layout, per_text=False).process([request(rows) for rows in texts])
    for rows, answer in zip(texts, answers, strict=True):
        assert isinstance(answer, dict)
        logits = answer["logits"]
        assert logits.shape == (len(rows), max(map(len, rows)) + 3, 2)
        for row, found in zip(rows, logits, strict=True):
            assert found[: len(row), 0].tolist() == row
            assert found[: len(row), 1].tolist() == [-value for value in row]
            assert not found[len(row) :].any()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@settings(max_examples=30, deadline=None)
@given(texts=st.lists(rows_of, min_size=1, max_size=5))
def test_logits_of_whole_texts_keep_their_order_too(layout: AnyLayout, texts: list[list[list[int]]]) -> None:
    answers = stage(ByText(), layout, per_text=True).process([request(rows) for rows in texts])
    for rows, answer in zip(texts, answers, strict=True):
        assert isinstance(answer, dict)
        assert answer["logits"].tolist() == [[row[0], -row[0]] for row in rows]


@pytest.mark.parametrize("per_text", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_row_alone_gets_its_logits_whatever_its_length_and_wherever_its_mask_has_holes(
    layout: AnyLayout, per_text: bool
) -> None:
    encoder = stage(ByText() if per_text else ByToken(), layout, per_text=per_text)
    for size in (*range(1, 512, 37), 512, 8, 9, 8):
        row = np.arange(size, size * 2, dtype=np.int32)
        mask = np.ones_like(row)
        mask[1:-1:3] = 0
        for each in (np.ones_like(row), mask):
            rows = {"input_ids": row[None], "attention_mask": each[None], "token_type_ids": -row[None]}
            (answer,) = encoder.process([Request(rows)])
            assert isinstance(answer, dict)
            taken = row[each == 1]
            expected = np.zeros((size, 2), np.float32)
            expected[: len(taken)] = np.stack([taken, -taken], axis=-1)
            assert answer["logits"].dtype == np.float32
            assert answer["logits"].tolist() == [(expected[0] if per_text else expected).tolist()]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_stage_counts_what_it_does(layout: AnyLayout) -> None:
    runner = ByToken()
    encoder = stage(runner, layout, per_text=False)
    encoder.process([request([[1] * 5, [2] * 30]), request([[3] * 7])])
    encoder.process([request([[4] * 40])])
    counts = encoder.counts
    assert (counts[TEXTS], counts[TOKENS]) == (4, 82)
    assert (counts[COMPUTED_TOKENS], counts[ENCODER_CALLS]) == (runner.computed, runner.calls)
    assert counts[COMPUTED_TOKENS] >= counts[TOKENS]


# --- how a layout is kept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_layout_is_read_as_it_was_written(layout: AnyLayout) -> None:
    assert layout_from(layout_values(layout)) == layout


@pytest.mark.parametrize(
    "values", [{}, {"kind": "stacked"}, {"kind": "sorted", "rows": 3}, {"kind": "packed", "length": 3}]
)
def test_what_is_no_layout(values: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        layout_from(values)


@pytest.mark.parametrize("per_text", [True, False])
def test_a_book_in_windows_goes_through_a_plan_in_calls_that_it_was_built_for(per_text: bool) -> None:
    shapes = CallShapes.up_to(512)
    sizes = [512] * 650 + [77]
    calls = list(PackedCalls(shapes.calls).calls(texts_of(sizes), PAD, per_text=per_text))
    assert sorted(index for call in calls for index in call.indices) == list(range(651))
    assert {call.arrays["input_ids"].shape for call in calls} <= set(shapes.calls)
    assert sum(call.computed for call in calls) < 1.05 * sum(sizes)


def test_more_masks_than_a_plan_has_room_for_are_the_requests_own_fault() -> None:
    layout, mask = PackedCalls(((1, 64), (4, 64), (1, 512))), 7
    settings = EngineSettings(NAMES, PAD, True, (), longest=512, mask_id=mask)
    encoder = EncoderStage(settings, ByText(), layout)
    (answer,) = encoder.process([request([[mask] * 64])])
    assert isinstance(answer, dict)
    assert answer["logits"].shape == (1, 64, 2)
    first, second = process_isolated(encoder, [request([[mask] * 65]), request([[mask, 3]])])
    assert isinstance(first, InvalidInput)
    assert "A text of 65 tokens has 65 masks, and this model's TensorRT plan fills at most 64 of such" in str(first)
    assert isinstance(second, dict)
