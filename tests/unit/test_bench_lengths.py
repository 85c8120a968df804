"""Texts of the lengths that were asked for, whatever tokenizer counts them."""

from collections.abc import Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tritext.bench.lengths import Lengths, running_words, texts_of
from tritext.errors import InvalidInput

SIZES = (3, 4, 7, 24, 120, 256)


def wordpiece() -> Tokenizer:
    """As BERT has it: pieces of words, two special tokens."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token, no password
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(running_words(), trainers.WordPieceTrainer(vocab_size=220, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def byte_pairs() -> Tokenizer:
    """As RoBERTa has it: a word is another one at the beginning of the text than behind a space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [" ".join(running_words())], trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"])
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    return tokenizer


@pytest.mark.parametrize("tokenizer", [wordpiece(), byte_pairs()], ids=["wordpiece", "byte pairs"])
def test_texts_have_the_tokens_that_were_asked_for(tokenizer: Tokenizer) -> None:
    def count(texts: Sequence[str]) -> list[int]:
        return [len(each.ids) for each in tokenizer.encode_batch(list(texts))]

    wanted = np.array(SIZES * 20)
    texts = texts_of(wanted, count, seed=0)
    wrong = np.array(count(texts)) - wanted
    assert (wrong == 0).mean() > 0.85  # with so small a vocabulary few words are one token at the text's beginning
    assert abs(wrong).max() <= 3
    assert set(" ".join(texts).split()) <= set(running_words())
    assert len(set(texts)) > 80
    assert texts_of(wanted, count, seed=0) == texts
    assert texts_of(wanted, count, seed=1) != texts


def test_a_tokenizer_that_counts_unlike_any_ends_too() -> None:
    texts = texts_of(np.array([10, 20]), lambda texts: [7] * len(texts), seed=0)
    assert len(texts) == 2


def test_lengths_follow_the_distribution() -> None:
    drawn = Lengths(24, 120, 256).draw(1000, seed=0, least=3, most=512)
    assert np.percentile(drawn, [50, 95]) == pytest.approx([24, 120], abs=2)
    assert drawn.max() == 256
    assert sorted(drawn) == sorted(Lengths(24, 120, 256).draw(1000, seed=1, least=3, most=512))
    assert list(drawn) != list(Lengths(24, 120, 256).draw(1000, seed=1, least=3, most=512))


def test_no_text_is_longer_than_the_model_takes_or_shorter_than_can_be() -> None:
    drawn = Lengths(24, 120, 256).draw(1000, seed=0, least=3, most=128)
    assert (drawn.min(), drawn.max()) == (3, 128)


def test_one_number_makes_all_alike() -> None:
    assert set(Lengths.parse("16").draw(50, seed=0, least=3, most=512)) == {16}
    assert Lengths.parse("24,120,256") == Lengths(24, 120, 256)


@pytest.mark.parametrize("written", ["", "long", "24,120", "120,24,256", "0", "-3", "1.5", "1,2,3,4"])
def test_what_is_no_distribution_is_refused(written: str) -> None:
    with pytest.raises(InvalidInput, match=r"Give the median, the 95th percentile and the maximum"):
        Lengths.parse(written)
