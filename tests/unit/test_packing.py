"""Packed rows: every text in one place, positions from 0, neighbours told apart, hardly any padding."""

from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritext.bench.lengths import Lengths
from tritext.engines.batching import Call, Packed, Sorted, Texts

PAD = 7
sizes_of = st.lists(st.integers(1, 300), min_size=1, max_size=80)
layouts = st.builds(Packed, st.integers(8, 256), st.integers(1, 9))


def texts_of(sizes: list[int]) -> Texts:
    """Texts of these lengths; each token is told by its value, and its type is the negative."""
    ids = np.concatenate([1000 * (index + 1) + np.arange(size) for index, size in enumerate(sizes)]).astype(np.int32)
    return Texts({"input_ids": ids, "token_type_ids": -ids}, np.array(sizes, dtype=np.int64))


def calls_of(sizes: list[int], layout: Packed, *, per_text: bool = False) -> list[Call]:
    return list(layout.calls(texts_of(sizes), PAD, per_text=per_text))


def rounded_up(size: int) -> int:
    return -(-size // 8) * 8


@given(sizes_of, layouts)
def test_every_text_is_in_exactly_one_place_with_all_its_tokens(sizes: list[int], layout: Packed) -> None:
    found = Counter()
    for call in calls_of(sizes, layout):
        taken = np.zeros(call.arrays["input_ids"].shape, dtype=bool)
        assert call.spans is not None
        for index, (row, start, stop) in zip(call.indices, call.spans, strict=True):
            found[index] += 1
            tokens = (1000 * (index + 1) + np.arange(sizes[index])).tolist()
            assert call.arrays["input_ids"][row, start:stop].tolist() == tokens
            assert call.arrays["token_type_ids"][row, start:stop].tolist() == [-token for token in tokens]
            assert call.arrays["position_ids"][row, start:stop].tolist() == list(range(sizes[index]))
            assert not taken[row, start:stop].any()
            taken[row, start:stop] = True
        assert (call.arrays["input_ids"][~taken] == PAD).all()
        for name in ("token_type_ids", "position_ids", "segment_ids"):
            assert not call.arrays[name][~taken].any()
    assert found == Counter(range(len(sizes)))


@given(sizes_of, layouts)
def test_a_rows_texts_are_numbered_from_1_without_a_gap(sizes: list[int], layout: Packed) -> None:
    for call in calls_of(sizes, layout):
        assert call.spans is not None
        for row, segments in enumerate(call.arrays["segment_ids"]):
            spans = [span[1:] for span in call.spans if span[0] == row]
            assert spans[0][0] == 0
            assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]
            expected = np.concatenate([np.full(stop - start, number + 1) for number, (start, stop) in enumerate(spans)])
            assert segments.tolist() == expected.tolist() + [0] * (len(segments) - len(expected))


@given(sizes_of, layouts)
def test_first_tokens_are_those_of_the_texts_in_their_order(sizes: list[int], layout: Packed) -> None:
    for call in calls_of(sizes, layout, per_text=True):
        assert call.spans is None
        first = call.arrays["input_ids"].ravel()[call.arrays["first_tokens"]]
        assert first.tolist() == [1000 * (index + 1) for index in call.indices]
        answers = call.logits(np.arange(len(first), dtype=np.float32)[:, None])
        assert [(index, row.tolist()) for index, row in answers] == [
            (index, [number]) for number, index in enumerate(call.indices)
        ]


@given(sizes_of, layouts)
def test_what_a_graph_is_given(sizes: list[int], layout: Packed) -> None:
    for per_text in (False, True):
        for call in calls_of(sizes, layout, per_text=per_text):
            rows = {"input_ids", "token_type_ids", "position_ids", "segment_ids"}
            assert set(call.arrays) == rows | ({"first_tokens"} if per_text else set())
            assert {array.dtype for array in call.arrays.values()} == {np.dtype(np.int32)}
            assert len({call.arrays[name].shape for name in rows}) == 1


@given(sizes_of, layouts)
def test_no_row_is_longer_and_no_call_larger_than_it_may_be(sizes: list[int], layout: Packed) -> None:
    longest = rounded_up(max(layout.row_length * 3 // 2, *sizes))
    for call in calls_of(sizes, layout):
        rows, width = call.arrays["input_ids"].shape
        assert width % 8 == 0
        assert width <= longest
        assert rows == 1 or call.computed <= layout.row_length * layout.rows
        used = (call.arrays["segment_ids"] > 0).sum(axis=1)
        assert width == rounded_up(int(used.max()))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=400), layouts)
def test_padding_is_bounded_whatever_the_lengths(sizes: list[int], layout: Packed) -> None:
    """Up to 7 tokens a row for the step; and rows are sorted, so that those of a call are nearly as long.

    With s_k the longest row of call k, which has at most budget / s_k rows, what is left is at most the sum of
    budget (s_k - s_k+1) / s_k, and that is less than budget (1 + ln(longest / shortest)).
    """
    calls = calls_of(sizes, layout)
    used = [int(row) for call in calls for row in (call.arrays["segment_ids"] > 0).sum(axis=1)]
    padding = sum(call.computed for call in calls) - sum(sizes)
    budget = layout.row_length * layout.rows
    assert padding <= 7 * len(used) + budget * (1 + log(max(used) / min(used)))


@given(sizes_of, layouts)
def test_two_rows_are_never_where_one_would_do(sizes: list[int], layout: Packed) -> None:
    used = sorted(int(row) for call in calls_of(sizes, layout) for row in (call.arrays["segment_ids"] > 0).sum(axis=1))
    if sum(sizes) <= layout.row_length * 3 // 2:
        assert len(used) == 1
    if len(used) > 1:
        assert used[0] + used[1] > layout.row_length


def test_what_fits_a_row_and_a_half_is_one_row() -> None:
    assert [call.arrays["input_ids"].shape for call in calls_of([64, 64, 64], Packed(128, 4))] == [(1, 192)]
    assert [call.arrays["input_ids"].shape for call in calls_of([64, 64, 65], Packed(128, 4))] == [(2, 128)]


def test_a_long_text_has_a_row_of_its_own_and_short_ones_fill_up_the_others() -> None:
    (call,) = calls_of([100, 20, 90, 8, 38], Packed(128, 4))
    assert call.arrays["input_ids"].shape == (2, 128)
    assert call.spans is not None
    rows = [{index for index, span in zip(call.indices, call.spans, strict=True) if span[0] == row} for row in (0, 1)]
    assert sorted(map(sorted, rows)) == [[0, 1, 3], [2, 4]]
    wide, narrow = calls_of([300, 128, 128], Packed(128, 2))
    assert (wide.arrays["input_ids"].shape, narrow.arrays["input_ids"].shape) == ((1, 304), (2, 128))


@pytest.mark.parametrize(("number", "most"), [(64, 0.06), (4096, 0.01)])
def test_traffic_of_mixed_lengths_has_hardly_any_padding(number: int, most: float) -> None:
    """And less than sorting by length leaves, with calls of the same size."""
    sizes = [int(size) for size in Lengths().draw(number, 0, 3, 512)]
    waste = {
        layout: 1 - sum(sizes) / sum(call.computed for call in layout.calls(texts_of(sizes), PAD, per_text=True))
        for layout in (Packed(128, 4), Sorted(512))
    }
    print(number, waste)
    assert waste[Packed(128, 4)] <= most
    assert waste[Packed(128, 4)] < waste[Sorted(512)]
