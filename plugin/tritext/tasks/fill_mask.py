"""Fill-mask: the most likely tokens in the place of each mask token.

Semantics, names and defaults: transformers' FillMaskPipeline. It nests the answers of several masks; here they come one
after the other, and MASK says which mask of the text each is for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.errors import InvalidInput
from tritext.parameters import SOME_NAMES, Parameters, parameter, up_to
from tritext.results import Form
from tritext.settings import TOKENIZER, TaskSettings
from tritext.tasks.base import Column, FloatArray, Per, Task, pad, softmax
from tritext.tasks.inputs import Arrays
from tritext.text.inputs import TextInput

SEQUENCE: Final = Tensor("SEQUENCE", "BYTES", (-1,))
TOKEN: Final = Tensor("TOKEN", "INT32", (-1,))
MASK: Final = Tensor("MASK", "INT32", (-1,))

# Of one request. Logits are over the whole vocabulary, 0.12 MB for each mask of BERT's, and as many are made for each
# text as for that with the most masks; an answer takes up to 0.4 ms, in which nobody else gets one.
MOST_MASKS: Final = 512
MOST_FILLS: Final = 5_000

_LONG_WORD: Final = 16  # characters; no language that writes spaces has longer ones on average
_CONTRACTIONS: Final = (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")


@dataclass(frozen=True, slots=True)
class FillMaskParameters(Parameters):
    """``top_k``: how many tokens for each mask. ``targets``: choose among these alone."""

    top_k: int = parameter(5, up_to(100))
    targets: tuple[str, ...] | None = parameter(None, SOME_NAMES)


@dataclass(frozen=True, slots=True)
class Fill:
    """One token (`label`, and its id `token`) for the text's mask number `mask`, from 0, and the text with it."""

    label: str
    score: float
    sequence: str
    token: int
    mask: int


@dataclass(frozen=True, slots=True)
class FillMask:
    """The tokens for the masks of one text, mask by mask, the best first; the rest as in `Classification`."""

    form: ClassVar[Form] = "ranked"
    fills: tuple[Fill, ...]
    token_count: int
    truncated: bool


class FillMaskTask(Task):
    """See the module. `tokenizer` (a `tokenizers.Tokenizer`) is there where answers are made."""

    name: ClassVar[str] = "fill-mask"
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"
    suffix: ClassVar[str] = "ForMaskedLM"
    has_labels: ClassVar[bool] = False
    carried: ClassVar[tuple[Tensor, ...]] = (contract.INPUT_IDS, contract.ATTENTION_MASK)
    logits: ClassVar[Tensor] = contract.TOKEN_LOGITS
    per: ClassVar[Per] = "mask"
    outputs: ClassVar[tuple[Tensor, ...]] = (contract.LABEL, contract.SCORE, SEQUENCE, TOKEN, MASK, contract.COUNT)
    parameters: ClassVar[type[Parameters]] = FillMaskParameters
    result: ClassVar[type[Any]] = FillMask
    entry: ClassVar[type[Any]] = Fill

    def __init__(self, tokenizer: Any = None) -> None:
        self._tokenizer = tokenizer

    def needs_tokenizer(self) -> bool:
        """To write texts with their masks filled."""
        return True

    def load(self, folder: Path) -> Self:
        """The task with the tokenizer in `folder`."""
        from tokenizers import Tokenizer  # other tasks' answers do without

        return type(self)(Tokenizer.from_file(str(folder / TOKENIZER)))

    def check(self, input_ids: NDArray[np.int32], row: int, settings: TaskSettings) -> None:
        """There must be a mask that the model sees."""
        if not (input_ids == settings.mask_id).any():
            raise InvalidInput(
                f"TEXT[{row}] has no {settings.options['mask_token']} among the {settings.max_length} tokens that the "
                "model takes. Write it where a token is to be filled in."
            )

    def check_together(
        self, rows: Sequence[NDArray[np.int32]], settings: TaskSettings, parameters: FillMaskParameters
    ) -> None:
        """Masks and answers are no more than a step has memory and time for."""
        masks = [int(np.count_nonzero(ids == settings.mask_id)) for ids in rows]
        if len(rows) * max(masks) > MOST_MASKS or sum(masks) * parameters.top_k > MOST_FILLS:
            raise InvalidInput(
                f"The request has {len(rows)} texts with up to {max(masks)} masks, {sum(masks)} in all, and asks for "
                f"{parameters.top_k} tokens for each. Texts times the most masks of one may be {MOST_MASKS}, and "
                f"answers {MOST_FILLS:,}. Send fewer texts a request, those with many masks by themselves."
            )

    def answer(
        self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: FillMaskParameters
    ) -> dict[str, Any]:
        """`logits` [N, M, V] are those of each row's masks; answers [N, K], ``top_k`` for each mask."""
        targets = None if parameters.targets is None else self._ids(parameters.targets)
        masks = arrays[contract.ATTENTION_MASK.name].astype(np.bool_)
        rows = [
            self._row(ids[mask], each, settings, parameters.top_k, targets)
            for ids, mask, each in zip(arrays[contract.INPUT_IDS.name], masks, logits, strict=True)
        ]
        return pad(*(
            Column(tensor, [[fill[place] for fill in row] for row in rows])
            for place, tensor in enumerate(t for t in self.outputs if t != contract.COUNT)
        ))  # fmt: skip

    def _row(
        self, ids: NDArray[np.int32], logits: FloatArray, settings: TaskSettings, top_k: int,
        targets: NDArray[np.int64] | None,
    ) -> list[tuple[bytes, float, bytes, int, int]]:  # fmt: skip
        places = np.flatnonzero(ids == settings.mask_id)
        found = []
        for number, place in enumerate(places):
            scores = softmax(logits[number])
            choice = np.arange(len(scores)) if targets is None else targets
            best = choice[np.argsort(-scores[choice], kind="stable")[:top_k]]
            for token in best.tolist():
                filled = ids.copy()
                filled[place] = token
                # As the pipeline does: the other masks of a text are to be seen.
                text = self._text(filled[filled != settings.pad_id], settings, skip_special=len(places) == 1)
                word = self._text([token], settings, skip_special=False)
                found.append((word.encode(), float(scores[token]), text.encode(), token, number))
        return found

    def _text(self, ids: Sequence[int] | NDArray[np.int32], settings: TaskSettings, *, skip_special: bool) -> str:
        text: str = self._tokenizer.decode([int(each) for each in ids], skip_special_tokens=skip_special)
        return _cleaned(text) if settings.options["clean_up"] else text

    def _ids(self, targets: Sequence[str]) -> NDArray[np.int64]:
        """The tokens called so; of a word that is none, its first token. InvalidInput where a target has none."""
        ids = []
        for target in targets:
            known = self._tokenizer.token_to_id(target)
            pieces = [known] if known is not None else self._tokenizer.encode(target, add_special_tokens=False).ids
            if not pieces:
                raise InvalidInput(f"Parameter targets has {target!r}, which is no token and has none. Leave it out.")
            ids.append(pieces[0])
        return np.unique(np.array(ids, dtype=np.int64))

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """Probabilities over the vocabulary."""
        del settings
        return softmax(logits)

    def sample(self, settings: TaskSettings) -> str | None:
        """One with a mask."""
        return f"Does this server {settings.options['mask_token']}?"

    def references(self, texts: Sequence[TextInput], mask_token: str | None) -> list[TextInput]:
        """Each text with a mask in place of one of its first words, every third with another one.

        Of characters where there are few spaces, as Chinese, Japanese and Thai are written.
        """
        made: list[TextInput] = []
        for number, text in enumerate(texts):
            if not isinstance(text, str) or str(mask_token) in text:
                made.append(text)
                continue
            words = text.split()
            has_words = len(words) > 1 and len(text) <= _LONG_WORD * len(words)
            parts = words[:400] if has_words else list(text.strip())[:400]
            first = len(parts[:24])
            for place in {first // 2, *([first // 3] if number % 3 == 0 and first > 2 else [])}:
                parts[place : place + 1] = [str(mask_token)]
            made.append((" " if has_words else "").join(parts))
        return made


def _cleaned(text: str) -> str:
    """As transformers' ``clean_up_tokenization``: WordPiece's spaces before punctuation taken out."""
    for mark in _CONTRACTIONS[:4]:
        text = text.replace(f" {mark}", mark)
    text = text.replace(" ' ", "'")
    for mark in _CONTRACTIONS[4:]:
        text = text.replace(f" {mark}", mark)
    return text


TASK: Final = FillMaskTask()
