import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritext.client.batching import FLUSH, LENGTH_BYTES, MAX_BYTES, Batch, Batcher
from tritext.client.call import Call, Limit, Plan
from tritext.client.results import ModelInfo
from tritext.errors import InvalidInput

TEXTS = st.lists(st.text(max_size=12), max_size=40)


@given(TEXTS, st.integers(1, 7), st.integers(1, 60), st.integers(1, 3), st.integers(0, 20))
def test_batches_hold_every_text_once_in_order_and_within_the_limits(
    texts: list[str], max_rows: int, max_bytes: int, width: int, shared_bytes: int
) -> None:
    batches = list(Batcher(max_rows, max_bytes, width=width, shared_bytes=shared_bytes).split(texts))
    *full, end = batches
    assert [text.decode() for batch in full for text in batch.texts] == texts
    assert end == Batch(len(texts), [])
    assert [index for batch in full for index in batch.items] == list(range(len(texts)))
    for batch in full:
        assert 1 <= len(batch.texts) <= max_rows
        size = sum((len(text) + 2 * LENGTH_BYTES) * width + shared_bytes for text in batch.texts)
        assert size <= max_bytes or len(batch.texts) == 1


def test_a_text_above_the_byte_limit_travels_alone() -> None:
    sizes = [len(batch.texts) for batch in Batcher(8, 100).split(["a", "b", "x" * 500, "c", "d"])]
    assert sizes == [2, 1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "text", "sizes"),
    [
        (["a" * (5 << 20), "b" * (5 << 20)], "x", [3, 1, 0]),  # what is sent is 32 MiB at most
        (["a"] * 10, "x" * (1 << 20), [3, 1, 0]),  # and so are the pairs that a server makes of it
        (["a"] * 8192, "x", [2, 2, 0]),
        (["a"] * 20_000, "x", [1, 1, 1, 1, 0]),  # the server says that this is too much
        (["a"], "x", [4, 0]),
    ],
)
def test_what_all_texts_share_counts_with_each(labels: list[str], text: str, sizes: list[int]) -> None:
    plan = Plan("nli", "here:1", Limit(1.0), {"candidate_labels": json.dumps(labels)})
    call = Call(plan, ModelInfo("nli", "zero-shot-classification", ("entailment",), 128, 64, "3f9c01aa"))
    batches = list(call.batcher.split([text] * 4))
    assert [len(batch.texts) for batch in batches] == sizes
    assert call.request(batches[0], 1.0).ByteSize() <= MAX_BYTES + 1000


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=1, max_size=20))
def test_pairs_stay_pairs_also_with_an_empty_second_text(pairs: list[tuple[str, str]]) -> None:
    *full, _ = Batcher(3).split(pairs)
    seen = [(a.decode(), b.decode()) for batch in full for a, b in zip(batch.texts, batch.pairs or [], strict=True)]
    assert seen == pairs


def test_single_texts_have_no_pairs() -> None:
    assert next(Batcher(3).split(["a"])).pairs is None


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        (["a", 3], r"texts\[1\] is of type int"),
        (["a", b"b"], r"texts\[1\] is of type bytes"),
        ([("a", "b", "c")], r"texts\[0\] is a tuple of \(str, str, str\)"),
        ([("a", None)], r"texts\[0\] is a tuple of \(str, NoneType\)"),
        ([["a", "b"]], r"texts\[0\] is of type list"),
        (["a", ("b", "c")], r"texts\[1\] is a pair, those before it are not"),
        ([("b", "c"), "a"], r"texts\[1\] is a single text, those before it are not"),
        (["a", "b", "c\ud800"], r"texts\[2\] holds a lone surrogate at position 1"),
        ([("a", "\udcff")], r"texts\[0\] holds a lone surrogate at position 0"),
    ],
)
def test_what_cannot_be_sent_is_named_and_what_came_before_is_kept(items: list[Any], sentence: str) -> None:
    *full, end = Batcher(8).split(items)
    assert sum(len(batch.texts) for batch in full) == len(items) - 1
    assert isinstance(end.failure, InvalidInput)
    with pytest.raises(InvalidInput, match=sentence):
        raise end.failure


def test_what_the_source_raises_comes_last() -> None:
    def source() -> Iterator[str]:
        yield "a"
        raise OSError("disk")

    first, end = Batcher(8).split(source())
    assert first.texts == [b"a"]
    assert not end.texts
    assert str(end.failure) == "disk"


def test_a_flush_sends_what_there_is_and_then_pauses() -> None:
    items: list[Any] = ["a", FLUSH, FLUSH, "b", "c"]
    assert [batch.texts for batch in Batcher(8).split(items)] == [[b"a"], [], [], [b"b", b"c"], []]


@given(TEXTS)
def test_asynchronous_sources_are_cut_alike(texts: list[str]) -> None:
    async def source() -> AsyncIterator[str]:
        for text in texts:
            yield text

    async def collect() -> list[Batch]:
        return [batch async for batch in Batcher(3).split_async(source())]

    assert asyncio.run(collect()) == list(Batcher(3).split(texts))


def test_reads_no_further_than_the_batch_it_gives() -> None:
    taken: list[int] = []

    def source() -> Iterator[str]:
        for index in range(100):
            taken.append(index)
            yield str(index)

    next(Batcher(4).split(source()))
    assert len(taken) == 4
