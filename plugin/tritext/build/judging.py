"""The texts that candidates for the encoder are calibrated on and judged by."""

from collections.abc import Sequence
from typing import Final

from transformers import PreTrainedTokenizerBase

from tritext.build.checkpoint import Facts
from tritext.build.options import BuildOptions
from tritext.build.texts import paragraphs
from tritext.errors import EngineError
from tritext.tasks import task_named
from tritext.text.inputs import TextInput

_CALIBRATED: Final = 96
_JUDGED: Final = 320


def judging_texts(
    facts: Facts, tokenizer: PreTrainedTokenizerBase, options: BuildOptions
) -> tuple[Sequence[TextInput], Sequence[TextInput]]:
    """To calibrate on, and to judge on: the user's, or ours, in the form that the task is asked.

    EngineError where there are too few.
    """
    texts = list(options.texts) or _own(tokenizer)
    return _parted(task_named(facts.task).references(texts, tokenizer.mask_token))


def _own(tokenizer: PreTrainedTokenizerBase) -> list[TextInput]:
    unknown = tokenizer.unk_token_id

    def ids(text: str) -> list[int]:
        encoded: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return encoded

    return list(paragraphs(lambda text: len(ids(text)), lambda text: ids(text).count(unknown)))


def _parted(texts: Sequence[TextInput]) -> tuple[Sequence[TextInput], Sequence[TextInput]]:
    """Disjoint, each spread over all `texts`, of which the same counts once."""
    texts = list(dict.fromkeys(texts))
    if len(texts) < 8:
        raise EngineError(
            f"{len(texts)} different texts are too few to choose a precision by. Give at least 8, better several "
            "hundred, or leave nothing to choose: one --engine, such as openvino, with --precision fp32."
        )
    third = max(3, -(-len(texts) // _CALIBRATED))
    calibrating = texts[::third][:_CALIBRATED]
    rest = [text for index, text in enumerate(texts) if index % third]
    number = min(_JUDGED, len(rest))
    return calibrating, [rest[index * len(rest) // number] for index in range(number)]
