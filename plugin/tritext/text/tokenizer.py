"""The checkpoint's tokenizer, run in batches, with nothing of its output changed but by truncation."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from tritext import contract
from tritext.parameters import Cut, Truncation
from tritext.text.inputs import TextInput
from tritext.text.truncation import SPECIAL, kept
from tritext.text.windows import Cuts, Windows

_EITHER: Final = "longest_first"  # cuts a single text too
_SPACE: Final = ord(" ")
_MUCH: Final = 100_000  # characters: some 20 ms of work
_PARALLELISM: Final = "TOKENIZERS_PARALLELISM"
_IS_SAID: Final = _PARALLELISM in os.environ  # whoever starts us may know better
_is_spread: bool | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the model will see it; L tokens, at most the model's maximum.

    `count` is the number of tokens before truncation, `own` how many of them no other window of the text answers for,
    1 where there are no windows. `offsets` [L, 2] and `kinds` [L] are None unless asked for; of a pair they are those
    of the second text, tokens of the first are SPECIAL, and words are what the tokenizer itself split the text into.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32]
    count: int
    truncated: bool
    offsets: NDArray[np.int32] | None = None
    kinds: NDArray[np.uint8] | None = None
    own: int = 1


@dataclass(frozen=True, slots=True)
class Windowed:
    """One text as the windows that `cuts` tells, of the `whole` text. There may be very many, so each is made late."""

    whole: Encoded
    cuts: Cuts

    def window(self, number: int) -> Encoded:
        """One of them; its `count` is the whole text's, none of which is lost."""
        picked, own = self.cuts[number], self.cuts.own(number)
        whole = self.whole
        return Encoded(
            whole.input_ids[picked],
            whole.token_type_ids[picked],
            whole.count,
            truncated=False,
            offsets=None if whole.offsets is None else whole.offsets[picked],
            kinds=None if whole.kinds is None else _kinds(whole.kinds, picked, own),
            own=len(own),
        )


class TextTokenizer:
    """Encodes texts with the tokenizer in `path` (a ``tokenizer.json``).

    `with_offsets` also finds where each token lies in the text and whether it starts a word; `unk_id` is the
    unknown token, always a word of its own.
    """

    def __init__(self, path: Path, max_length: int, *, with_offsets: bool = False, unk_id: int | None = None) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        # Truncation and padding are ours: per request the first, per batch the second.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._max_length = max_length
        self._with_offsets = with_offsets
        self._words = WordStarts(self._tokenizer, unk_id) if with_offsets else None

    def encode(
        self, texts: Sequence[TextInput], sides: Sequence[Truncation], cuts: Sequence[Cut] | None = None
    ) -> list[Encoded]:
        """Encode `texts`, cutting each at its side of `sides` where it is too long ("error" is cut right).

        `cuts` say for each which text of a pair that is; the longest first where they are None.
        """
        cuts = [_EITHER] * len(texts) if cuts is None else cuts
        return [
            self._finish(encoding, text, self._kept(encoding, side, cut if isinstance(text, tuple) else _EITHER))
            for encoding, text, side, cut in zip(self._encoded(texts), texts, sides, cuts, strict=True)
        ]

    def windowed(self, texts: Sequence[TextInput], windows: Windows) -> list[Windowed]:
        """Encode `texts` in full, each of them once, and say where the windows of each lie."""
        length = min(windows.length or self._max_length, self._max_length)
        return [
            Windowed(
                self._finish(encoding, text, slice(None)),
                Cuts.of(_sequences(encoding), length, windows.stride, is_pair=isinstance(text, tuple)),
            )
            for encoding, text in zip(self._encoded(texts), texts, strict=True)
        ]

    def _encoded(self, texts: Sequence[TextInput]) -> Iterable[Encoding]:
        """`texts` in full; where pairs share their texts, each of those is tokenized once, and pairs are made late."""
        _spread(sum(len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts))
        encode = self._tokenizer.encode_batch if self._with_offsets else self._tokenizer.encode_batch_fast
        pairs = [text for text in texts if isinstance(text, tuple)]
        parts = list(dict.fromkeys([part for pair in pairs for part in pair]))
        if len(pairs) < len(texts) or len(parts) == 2 * len(pairs):
            encodings: list[Encoding] = encode(list(texts))
            return encodings
        processor = self._tokenizer.post_processor
        self._tokenizer.post_processor = None  # a byte-level one trims offsets, and would do so twice
        try:
            alone = dict(zip(parts, encode(parts, add_special_tokens=False), strict=True))
        finally:
            self._tokenizer.post_processor = processor
        return (self._tokenizer.post_process(alone[first], alone[second]) for first, second in pairs)

    def _kept(self, encoding: Encoding, side: Truncation, cut: Cut) -> slice | NDArray[np.intp]:
        if len(encoding) <= self._max_length:
            return slice(None)
        return kept(_sequences(encoding), self._max_length, side, cut)

    def _finish(self, encoding: Encoding, text: TextInput, picked: slice | NDArray[np.intp]) -> Encoded:
        count = len(encoding)
        is_cut = not isinstance(picked, slice)
        ids = np.array(encoding.ids, dtype=np.int32)[picked]
        types = np.array(encoding.type_ids, dtype=np.int32)[picked]
        if self._words is None:
            return Encoded(ids, types, count, is_cut)
        offsets = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)[picked]
        is_special = _sequences(encoding) != int(isinstance(text, tuple))
        special = is_special[picked]
        offsets[special] = 0
        if isinstance(text, str):
            kinds = self._words.kinds(text, ids, offsets, special)
        else:
            kinds = _own_words(encoding, is_special)[picked]
        return Encoded(ids, types, count, is_cut, offsets, kinds)


def _kinds(kinds: NDArray[np.uint8], picked: NDArray[np.intp], own: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Of the tokens `picked`, of which the window answers for its `own`."""
    elsewhere = (kinds[picked] != contract.SPECIAL) & ~np.isin(picked, own, assume_unique=True)
    found: NDArray[np.uint8] = kinds[picked] + contract.ELSEWHERE * elsewhere.astype(np.uint8)
    return found


def _sequences(encoding: Encoding) -> NDArray[np.int8]:
    """Which text each token is of, [L], as `kept` has it."""
    sequence = np.array([0 if s is None else s for s in encoding.sequence_ids], dtype=np.int8)  # lost by `post_process`
    sequence[np.array(encoding.special_tokens_mask, dtype=np.bool_)] = SPECIAL
    return sequence


def _own_words(encoding: Encoding, special: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The kind of each token, [L], by the words that the tokenizer itself split the text into."""
    words = np.array([-1 if word is None else word for word in encoding.word_ids])
    starts = np.append(True, words[1:] != words[:-1])
    return np.where(special, contract.SPECIAL, np.where(starts, contract.WORD_START, contract.SUBWORD)).astype(np.uint8)


def _spread(characters: int) -> None:
    """Have `tokenizers` use all cores for long work only; it reads this variable at each call.

    To wake threads that an encoder keeps from their cores takes longer than to tokenize a few texts.
    """
    global _is_spread  # noqa: PLW0603 - like the variable itself, which is slow to set
    if not _IS_SAID and _is_spread != (characters > _MUCH):
        _is_spread = characters > _MUCH
        os.environ[_PARALLELISM] = "true" if _is_spread else "false"


class WordStarts:
    """Tells which tokens go on with a word, by the rule of transformers' TokenClassificationPipeline.

    A WordPiece token whose string is longer than the text it covers carries a prefix such as "##". Where the
    model has no such prefix, a token starts a word if there is a space right before it or at its start.
    """

    def __init__(self, tokenizer: Tokenizer, unk_id: int | None) -> None:
        self._unk_id = -1 if unk_id is None else unk_id
        self._lengths: NDArray[np.int32] | None = None
        if getattr(tokenizer.model, "continuing_subword_prefix", None):
            vocabulary = tokenizer.get_vocab(with_added_tokens=True)
            self._lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int32)
            for token, index in vocabulary.items():
                self._lengths[index] = len(token)

    def kinds(
        self, text: str, ids: NDArray[np.int32], offsets: NDArray[np.int32], special: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """WORD_START, SUBWORD or SPECIAL for each token, [L]."""
        starts, ends = offsets[:, 0], offsets[:, 1]
        if self._lengths is not None:
            subword = self._lengths[ids] != ends - starts
        else:
            subword = (starts > 0) & ~_touches_space(text, starts)
        kinds = np.where(subword & (ids != self._unk_id), contract.SUBWORD, contract.WORD_START)
        kinds[special] = contract.SPECIAL
        return kinds.astype(np.uint8)


def _touches_space(text: str, starts: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether there is a space at position start - 1 or start."""
    points = np.frombuffer((text + "\0").encode("utf-32-le"), dtype=np.uint32)
    is_space = points == _SPACE
    touches: NDArray[np.bool_] = is_space[np.maximum(starts - 1, 0)] | is_space[starts]
    return touches
