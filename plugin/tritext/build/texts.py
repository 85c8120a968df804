"""The real texts that builds are judged on where the user gives none."""

import json
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Final

from tritext.text.inputs import TextInput

_PARITY: Final = "texts.json"
_PARAGRAPHS: Final = "paragraphs.json"
_ENOUGH: Final = 240  # paragraphs to calibrate and to judge on, together


def parity_texts(*, pairs: bool) -> list[TextInput]:
    """Single texts, and text pairs too where the task takes them: many scripts, all lengths, the awkward ones.

    One is far longer than any model's maximum.
    """
    stored = _stored(_PARITY)
    declaration, edge = stored["declaration"], stored["edge"]
    longest = declaration[-1]
    texts: list[TextInput] = [*declaration, *edge, f"{longest} " * 20]
    if pairs:
        texts += [(first, second) for first, second in stored["pairs"]]
        texts += [(longest * 3, declaration[0]), (declaration[1], longest * 3), (longest * 3, longest * 3)]
    return texts


def paragraphs(count_tokens: Callable[[str], int], unknown: Callable[[str], int]) -> list[str]:
    """Some 250 paragraphs in the languages that a tokenizer knows best, those languages taking turns.

    `count_tokens` and `unknown` tell how many tokens, and how many unknown ones, a text has. A model for one
    language gets that and its closest relatives: on texts it was never made for its answers are near ties.
    """
    languages: dict[str, list[str]] = _stored(_PARAGRAPHS)["languages"]

    def cost(texts: Sequence[str]) -> float:
        size = sum(len(text.encode()) for text in texts)
        return sum(count_tokens(text) + 20 * unknown(text) for text in texts) / size

    ranked = sorted(languages.values(), key=lambda texts: cost(texts[:10]))
    chosen: list[list[str]] = []
    while sum(map(len, chosen)) < _ENOUGH:
        chosen.append(ranked[len(chosen)])
    longest = max(map(len, chosen))
    return [texts[index] for index in range(longest) for texts in chosen if index < len(texts)]


def _stored(file: str) -> Any:
    return json.loads(resources.files(__package__).joinpath(file).read_text(encoding="utf-8"))
