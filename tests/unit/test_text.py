"""Truncation against `tokenizers`' own, and the tokenizer's handling of what a tokenizer.json may bake in."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tritext import contract
from tritext.text.tokenizer import TextTokenizer
from tritext.text.truncation import SPECIAL, kept, share

WORDS = 60


def word_tokenizer(*, roberta: bool = False) -> Tokenizer:
    """Each word w0, w1, … is one token; pairs as BERT's (three special tokens) or RoBERTa's (four)."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    words = {word: index for index, word in enumerate([*special, *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    middle = "</s>:0 </s>:0" if roberta else "</s>:0"
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0 </s>:0",
        pair=f"<s>:0 $A:0 {middle} $B:1 </s>:1",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    return tokenizer


def text(length: int) -> str:
    return " ".join(f"w{i % WORDS}" for i in range(length))


@given(
    st.integers(0, 40), st.integers(0, 40) | st.none(), st.integers(8, 50), st.sampled_from(["right", "left"]),
    st.booleans(),
)  # fmt: skip
def test_keeps_what_tokenizers_keeps(first: int, second: int | None, max_length: int, side: str, roberta: bool) -> None:
    item = (text(first),) if second is None else (text(first), text(second))
    tokenizer = word_tokenizer(roberta=roberta)
    whole = tokenizer.encode(*item)
    sequence = np.array([SPECIAL if s is None else s for s in whole.sequence_ids], dtype=np.int8)
    picked = kept(sequence, max_length, side)  # type: ignore[arg-type]
    tokenizer.enable_truncation(max_length, strategy="longest_first", direction=side)
    cut = tokenizer.encode(*item)
    assert np.array(whole.ids)[picked].tolist() == cut.ids
    assert np.array(whole.type_ids)[picked].tolist() == cut.type_ids
    assert np.array(whole.offsets).reshape(-1, 2)[picked].tolist() == [list(place) for place in cut.offsets]


@given(st.integers(0, 600), st.integers(0, 600), st.integers(0, 600))
def test_shares_all_the_room_and_no_more(first: int, second: int, room: int) -> None:
    kept_first, kept_second = share(first, second, room)
    assert 0 <= kept_first <= first
    assert 0 <= kept_second <= second
    assert kept_first + kept_second == min(first + second, room)
    assert share(second, first, room) == (kept_second, kept_first) or first == second


@pytest.mark.parametrize(
    ("sizes", "room", "expected"),
    [
        ((5, 3), 10, (5, 3)),
        ((20, 3), 10, (7, 3)),  # the shorter one stays whole
        ((3, 20), 10, (3, 7)),
        ((20, 20), 10, (5, 5)),
        ((20, 21), 11, (5, 6)),  # the odd one goes to the longer
        ((21, 20), 11, (6, 5)),
        ((0, 20), 10, (0, 10)),
        ((20, 20), 0, (0, 0)),
    ],
)
def test_takes_from_the_longest_first(sizes: tuple[int, int], room: int, expected: tuple[int, int]) -> None:
    assert share(*sizes, room) == expected


def test_ignores_truncation_and_padding_baked_into_the_file(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16, pad_id=0, pad_token="<pad>")  # noqa: S106
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (row,) = TextTokenizer(tmp_path / "tokenizer.json", 10).encode([text(6)], ["right"])
    assert (len(row.input_ids), row.count, row.truncated) == (8, 8, False)


@pytest.mark.parametrize(("side", "words"), [("right", range(8)), ("error", range(8)), ("left", range(4, 12))])
def test_cuts_at_the_side_asked_for(tmp_path: Path, side: str, words: range) -> None:
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 10, with_offsets=True, unk_id=3)
    row, short = tokenizer.encode([text(12), text(2)], [side, "left"])  # type: ignore[list-item]
    assert row.input_ids.tolist() == [1, *(4 + i for i in words), 2]
    assert (row.count, row.truncated) == (14, True)
    assert (short.count, short.truncated) == (4, False)
    assert row.kinds is not None
    assert row.kinds.tolist() == [contract.SPECIAL, *[contract.WORD_START] * 8, contract.SPECIAL]


def test_offsets_count_code_points_of_the_text(tmp_path: Path) -> None:
    word_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 10, with_offsets=True, unk_id=3)
    (row,) = tokenizer.encode(["👩‍👧 é w1"], ["right"])
    assert row.offsets is not None
    assert row.offsets.tolist() == [[0, 0], [0, 3], [4, 5], [6, 8], [0, 0]]
