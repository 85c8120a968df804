"""What the torch engine gives a device: texts without padding, where each begins, and vectors of a fixed size."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from checkpoints import ARCHITECTURES
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS
from tritext.engines.batching import Texts
from tritext.engines.packing import Packed
from tritext.engines.torch_attention import NAME, _attention, arguments
from tritext.engines.torch_flat import STARTS, Flat, Shape, fitting
from tritext.engines.torch_load import round_to
from tritext.engines.torch_packing import PackedModel, block_diagonal
from tritext.engines.torch_staging import Staging

SHAPES = [Shape.of(tokens) for tokens in (16, 32, 64, 128)]


def texts_of(lengths: list[int]) -> Texts:
    """Ids that are all different, so that each can be found again."""
    return Texts({"input_ids": np.arange(1, sum(lengths) + 1, dtype=np.int32)}, np.array(lengths, dtype=np.int64))


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@settings(deadline=None)
@given(lengths, st.integers(8, 64), st.integers(1, 4), st.booleans())
def test_every_text_lies_whole_between_its_starts(sizes: list[int], row: int, rows: int, per_text: bool) -> None:
    texts = texts_of(sizes)
    ends = np.cumsum(sizes)
    for call in Packed(row, rows).calls(texts, 0, per_text=per_text):
        flat = Flat.of(call.arrays)
        ids, starts = flat.pieces["input_ids"][0], flat.pieces[STARTS]
        assert flat.texts == len(call.indices)
        assert flat.tokens == starts[-1] == sum(sizes[index] for index in call.indices)
        assert flat.longest == max(sizes[index] for index in call.indices)
        for number, index in enumerate(call.indices):
            mine = slice(starts[number], starts[number + 1])
            assert ids[mine].tolist() == list(range(ends[index] - sizes[index] + 1, ends[index] + 1))
            assert flat.pieces[POSITION_IDS][0, mine].tolist() == list(range(sizes[index]))
            assert set(flat.pieces[SEGMENT_IDS][0, mine]) == {number + 1}
        if per_text:
            assert flat.pieces[FIRST_TOKENS].tolist() == starts[:-1].tolist()


@settings(deadline=None)
@given(lengths, st.integers(8, 64), st.integers(1, 4))
def test_logits_by_token_come_back_to_their_rows(sizes: list[int], row: int, rows: int) -> None:
    texts = texts_of(sizes)
    for call in Packed(row, rows).calls(texts, 0, per_text=False):
        flat = Flat.of(call.arrays)
        logits = flat.pieces["input_ids"][0][:, None].astype(np.float32)
        assert (flat.rows(logits)[..., 0] == call.arrays["input_ids"]).all()


@settings(deadline=None)
@given(lengths)
def test_a_fixed_size_changes_nothing_but_the_end(sizes: list[int]) -> None:
    for call in Packed(32, 1).calls(texts_of(sizes), 0, per_text=True):
        flat = Flat.of(call.arrays)
        shape = fitting(flat, SHAPES)
        if shape is None:
            assert flat.tokens > 128 or flat.texts > 16
            continue
        padded = flat.padded(shape)
        assert all(
            each.tokens < flat.tokens or each.texts < flat.texts for each in SHAPES if each.tokens < shape.tokens
        )
        for name, piece in flat.pieces.items():
            assert (padded.pieces[name][..., : piece.shape[-1]] == piece).all()
        starts = padded.pieces[STARTS]
        assert starts.shape == (shape.texts + 2,)
        # The padding is a text of its own: what a kernel leaves unwritten could be anything.
        assert (np.diff(starts) >= 0).all()
        assert starts[-1] == shape.tokens
        assert (padded.pieces[SEGMENT_IDS][0, flat.tokens :] == 0).all()


def test_a_token_attends_to_its_own_text_alone() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 10, 8)
    starts = torch.tensor([0, 4, 4, 9, 10], dtype=torch.int32)  # one of them is empty
    got, _ = _attention(torch.nn.Identity(), query, key, value, None, cu_seq_lens_q=starts, max_length_q=5)
    for start, stop in ((0, 4), (4, 9), (9, 10)):
        q, k, v = (each[0, :, start:stop] for each in (query, key, value))
        expected = torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v
        torch.testing.assert_close(got[0, start:stop].transpose(0, 1), expected)


def test_staging_grows_and_gives_copies() -> None:
    staging = Staging(torch.device("cpu"))
    for size in (3, 200, 5):
        pieces = {"a": np.arange(size, dtype=np.int32)[None], "b": np.arange(size + 2, dtype=np.int32)}
        found = staging.to_device(pieces)
        assert all((found[name].numpy() == piece).all() for name, piece in pieces.items())
        assert {name: tuple(each.shape) for name, each in found.items()} == {"a": (1, size), "b": (size + 2,)}
        first = staging.to_host(torch.full((size, 2), 1.5, dtype=torch.bfloat16))
        staging.to_host(torch.zeros(size, 2))
        assert (first == 1.5).all()


@pytest.mark.parametrize(("tokens", "texts", "expected"), [(16, 1, 16), (17, 1, 32), (16, 3, 32), (129, 1, None)])
def test_the_smallest_shape_with_room_is_taken(tokens: int, texts: int, expected: int | None) -> None:
    sizes = [1] * (texts - 1) + [tokens - texts + 1]
    (call,) = Packed(256, 1).calls(texts_of(sizes), 0, per_text=True)
    shape = fitting(Flat.of(call.arrays), SHAPES)
    assert (shape and shape.tokens) == expected


@pytest.mark.parametrize("per_text", [True, False])
@pytest.mark.parametrize(
    ("name", "attention"),
    [
        ("bert", NAME),
        ("roberta", NAME),
        ("modernbert", NAME),
        ("bert", "sdpa"),
        ("modernbert", "sdpa"),
        ("mpnet", "eager"),
        ("deberta-v2", "eager"),
    ],
)
def test_a_device_without_data_takes_the_gpus_way(name: str, attention: str, per_text: bool) -> None:
    """Shapes, types and arguments of every kernel, torch's own for texts of many lengths among them; no values.

    Whatever asked for a value on the way, as a recorded call must not, would fail here.
    """
    architecture = ARCHITECTURES[name]
    config = AutoConfig.for_model(architecture.model_type, **architecture.config, vocab_size=100, num_labels=3,
                                  pad_token_id=1)  # fmt: skip
    model_class: Any = AutoModelForSequenceClassification if per_text else AutoModelForTokenClassification
    with torch.device("meta"):
        model = model_class.from_config(config, attn_implementation=attention).eval()
    shape = Shape(tokens=64, texts=8)
    names = ("input_ids", POSITION_IDS, SEGMENT_IDS)
    given = {name: torch.zeros(1, shape.tokens, dtype=torch.int32, device="meta") for name in names}
    given[STARTS] = torch.zeros(shape.texts + 2, dtype=torch.int32, device="meta")
    if per_text:
        given[FIRST_TOKENS] = torch.zeros(shape.texts, dtype=torch.int32, device="meta")
    round_to(model, torch.bfloat16)
    by_text = attention == NAME
    kept_apart = arguments(given[STARTS], shape.tokens) if by_text else block_diagonal(model, given[SEGMENT_IDS])
    with torch.inference_mode():
        logits = PackedModel(model, 0).logits(given, kept_apart)
    assert logits.shape == ((shape.texts, 3) if per_text else (1, shape.tokens, 3))
    assert (logits.device.type, logits.dtype) == ("meta", torch.float32)
