"""Packed rows: every text in one place, positions from 0, neighbours told apart, hardly any padding."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritext.bench.lengths import Lengths
from tritext.engines.batching import Call, Sorted, Texts
from tritext.engines.packing import Packed, _of_one

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
    step = 8 if size <= 64 else 16
    return -(-size // step) * step


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
        wanted = len(call.indices)
        assert first[:wanted].tolist() == [1000 * (index + 1) for index in call.indices]
        assert wanted <= len(first) <= wanted * 1.25  # the last layer is computed for each
        assert (call.arrays["first_tokens"][wanted:] == 0).all()
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
    longest = max(layout.row_length, *sizes)
    budget = layout.row_length * layout.rows
    for call in calls_of(sizes, layout):
        rows, width = call.arrays["input_ids"].shape
        assert width % 8 == 0
        assert width <= rounded_up(longest * 24 // 10 + 16)  # one row where there is less than enough for two
        assert rows == 1 or call.computed <= max(budget, longest) * 1.25 + 16 * rows
        used = (call.arrays["segment_ids"] > 0).sum(axis=1)
        assert rounded_up(int(used.max())) <= width
        assert rows == 1 or call.computed <= max(budget, longest) * 1.25 or width == rounded_up(int(used.max()))


@given(sizes_of, layouts)
def test_only_the_last_call_has_longer_rows_than_its_texts_need(sizes: list[int], layout: Packed) -> None:
    for call in calls_of(sizes, layout)[:-1]:
        used = (call.arrays["segment_ids"] > 0).sum(axis=1)
        assert call.arrays["input_ids"].shape[1] == rounded_up(int(used.max()))


def test_traffic_of_all_sizes_has_few_shapes_and_fewer_numbers_of_tokens() -> None:
    """An engine keeps memory for each."""
    chance = random.Random(0)  # noqa: S311 - texts, not secrets
    shapes, picked = set(), set()
    for _ in range(2000):
        sizes = [chance.randint(3, 140) for _ in range(chance.choice([1, 1, 2, 4, 8]) * chance.randint(1, 6))]
        calls = calls_of(sizes, Packed(128, 8), per_text=True)
        shapes |= {call.arrays["input_ids"].shape for call in calls}
        picked |= {len(call.arrays["first_tokens"]) for call in calls}
    assert len({rows * width for rows, width in shapes}) <= 40
    assert len(picked) <= 20
    assert len(shapes) <= 60


@given(st.lists(st.integers(1, 300), min_size=1, max_size=400), layouts)
def test_padding_is_bounded_whatever_the_lengths(sizes: list[int], layout: Packed) -> None:
    """A row that is less than half full has taken all that was left, for that was shorter than what it began with."""
    *all_but_last, last = calls_of(sizes, layout)
    for call in all_but_last:
        used = (call.arrays["segment_ids"] > 0).sum(axis=1)
        assert (2 * used + 16 >= call.arrays["input_ids"].shape[1]).all()
    assert last.computed <= max(layout.row_length * layout.rows, *sizes) * 1.25 + 16 * len(sizes)


@given(sizes_of, layouts)
def test_no_more_is_computed_than_in_one_row_where_all_fits_in_it(sizes: list[int], layout: Packed) -> None:
    if sum(sizes) <= layout.row_length:
        (call,) = calls_of(sizes, layout)
        assert call.computed <= rounded_up(sum(sizes))


def test_few_texts_make_rows_that_are_full_and_not_of_a_fixed_length() -> None:
    shapes = {
        (64, 64, 64): (1, 192),
        (120, 120, 120, 30): (3, 160),
        (128, 128): (2, 128),
        (10, 250): (1, 288),
    }
    for sizes, shape in shapes.items():
        (call,) = calls_of(list(sizes), Packed(128, 4))
        assert call.computed <= shape[0] * shape[1], sizes


def test_a_long_text_makes_all_rows_of_its_call_as_long_and_they_are_filled() -> None:
    first, *_ = calls_of([256, *[32] * 40], Packed(128, 4))
    used = (first.arrays["segment_ids"] > 0).sum(axis=1)
    assert first.arrays["input_ids"].shape == (2, 256)
    assert used.tolist() == [256, 256]


# --- a text alone, whose call is kept -----------------------------------------------------------------------------


def one(size: int, first: int = 1, *, types: bool = True) -> Texts:
    """A text of `size` tokens, from `first` on."""
    ids = np.arange(first, first + size, dtype=np.int32)
    values = {"input_ids": ids, "token_type_ids": -ids} if types else {"input_ids": ids}
    return Texts(values, np.array([size], dtype=np.int64))


def assert_as_laid_out(layout: Packed, texts: Texts, *, per_text: bool, brief: bool = False) -> None:
    (expected,) = layout.laid_out(texts, PAD, per_text=per_text, brief=lambda: brief)
    (call,) = layout.calls(texts, PAD, per_text=per_text, brief=lambda: brief)
    assert {name: (array.dtype, array.tolist()) for name, array in call.arrays.items()} == {
        name: (array.dtype, array.tolist()) for name, array in expected.arrays.items()
    }
    assert (call.indices, call.spans) == (expected.indices, expected.spans)


@pytest.mark.parametrize("per_text", [True, False])
@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("layout", [Packed(128, 8), Packed(512, 2)], ids=str)
def test_a_text_alone_is_laid_out_as_any_of_its_length(layout: Packed, types: bool, per_text: bool) -> None:
    """The second time too, when its call is kept, and with another length's between."""
    _of_one.cache_clear()
    for size in range(1, 513):
        for each in (size, max(1, size - 1), size):
            assert_as_laid_out(layout, one(each, 1000 * size, types=types), per_text=per_text)
    assert _of_one.cache_info().misses == layout.row_length  # longer ones are not kept


@given(st.integers(1, 300), st.booleans(), st.booleans(), layouts)
def test_others_who_wait_do_not_change_the_call_of_a_text_alone(
    size: int, per_text: bool, brief: bool, layout: Packed
) -> None:
    assert_as_laid_out(layout, one(size), per_text=per_text, brief=brief)


def test_whoever_writes_to_a_call_does_not_change_the_next() -> None:
    (first,) = Packed(128, 4).calls(one(13), PAD, per_text=True)
    for array in first.arrays.values():
        array[...] = -5
    assert_as_laid_out(Packed(128, 4), one(13), per_text=True)


def test_several_texts_and_picked_places_are_laid_out_each_time() -> None:
    _of_one.cache_clear()
    layout, picked = Packed(128, 4), replace(one(20), picks=[np.array([3, 7])])
    for texts in (texts_of([20, 20]), picked):
        assert_as_laid_out(layout, texts, per_text=True)
    (call,) = layout.calls(picked, PAD, per_text=True)
    assert call.arrays["first_tokens"].tolist() == [3, 7]
    nothing = Texts({"input_ids": np.zeros(0, np.int32)}, np.zeros(0, np.int64))
    assert not list(layout.calls(nothing, PAD, per_text=True))
    assert _of_one.cache_info().currsize == 0


@pytest.mark.parametrize(("number", "most"), [(64, 0.06), (4096, 0.01)])
def test_traffic_of_mixed_lengths_has_hardly_any_padding(number: int, most: float) -> None:
    """And less than sorting by length leaves, with calls of the same size."""
    sizes = [int(size) for size in Lengths().draw(number, 0, 3, 512)]
    texts = replace(texts_of(sizes), longest=512)
    waste = {
        layout: 1 - sum(sizes) / sum(call.computed for call in layout.calls(texts, PAD, per_text=True))
        for layout in (Packed(128, 4), Sorted(512))
    }
    assert waste[Packed(128, 4)] <= most
    assert waste[Packed(128, 4)] < waste[Sorted(512)]
