"""Windows over long texts are those of transformers' fast tokenizers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hard_texts import PAIRS, SINGLE
from numpy.typing import NDArray
from transformers import AutoTokenizer

import checkpoints
from checkpoints import ARCHITECTURES
from tritext import contract
from tritext.text.inputs import TextInput
from tritext.text.tokenizer import Encoded, TextTokenizer
from tritext.text.windows import Windows

TOKENIZERS = ["bert", "roberta", "xlm-roberta", "albert", "mpnet", "deberta-v2"]
LONG = " ".join(SINGLE[:60])


def expected(tokenizer: Any, item: TextInput, length: int, stride: int) -> Any:
    return tokenizer(
        [item], truncation="only_second" if isinstance(item, tuple) else True, max_length=length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", TOKENIZERS)
def test_windows_are_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    folder = checkpoints.make(tmp_path / "c", ARCHITECTURES[architecture], checkpoints.HEADS["single"])
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = TextTokenizer(folder / "tokenizer.json", 128, with_offsets=True, unk_id=theirs.unk_token_id)
    contexts: Sequence[TextInput] = [LONG, *SINGLE[::9]]
    questions: Sequence[TextInput] = [
        (question, context) for question in ("Who", "", "Was heißt das?") for context in (LONG, *SINGLE[::9])
    ]
    pairs: Sequence[TextInput] = [pair for pair in PAIRS if len(pair[0]) < 40]
    for length, stride in ((128, 0), (128, 32), (60, 40)):
        for items in (contexts, questions, pairs):  # pairs that share texts, and others
            found = ours.windowed(items, Windows(stride, length))
            for item, text in zip(items, found, strict=True):
                windows = [text.window(number) for number in range(len(text.cuts))]
                check(windows, expected(theirs, item, length, stride), item)
                assert {window.count for window in windows} == {len(theirs([item], verbose=False)["input_ids"][0])}
                assert np.concatenate([owned(window) for window in windows]).tolist() == owned(text.whole).tolist()
                assert [window.own for window in windows] == [len(owned(window)) for window in windows]


def owned(window: Encoded) -> NDArray[np.int32]:
    """The tokens that a window answers for."""
    assert window.kinds is not None
    return window.input_ids[window.kinds <= contract.SUBWORD]


def check(windows: Sequence[Encoded], wanted: Any, item: TextInput) -> None:
    part = int(isinstance(item, tuple))
    assert [window.input_ids.tolist() for window in windows] == wanted["input_ids"]
    if "token_type_ids" in wanted:  # where the model takes them: RoBERTa's are wrong in all windows but the first
        assert [window.token_type_ids.tolist() for window in windows] == wanted["token_type_ids"]
    assert not any(window.truncated for window in windows)
    for number, window in enumerate(windows):
        mine = [sequence == part for sequence in wanted.sequence_ids(number)]
        assert window.offsets is not None
        places = [each for each, is_mine in zip(wanted["offset_mapping"][number], mine, strict=True) if is_mine]
        assert window.offsets[mine].tolist() == [list(place) for place in places]
        assert not window.offsets[np.logical_not(mine)].any()
        assert window.kinds is not None
        assert (window.kinds != contract.SPECIAL).tolist() == mine


def test_windows_without_end_are_not_made(tmp_path: Path) -> None:
    folder = checkpoints.make(tmp_path / "c", ARCHITECTURES["bert"], checkpoints.HEADS["single"])
    tokenizer = TextTokenizer(folder / "tokenizer.json", 128)
    text, short = tokenizer.windowed(["a b " * 500, "a"], Windows(126))
    assert not text.cuts.is_possible
    assert short.cuts.is_possible
    assert len(short.cuts) == 1
    (one_each,) = tokenizer.windowed(["a b " * 500], Windows(125))
    assert len(one_each.cuts) == 1000 - 126 + 1
