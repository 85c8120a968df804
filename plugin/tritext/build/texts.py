"""The real texts that every build is judged on: many scripts, all lengths, and the awkward ones."""

import json
from importlib import resources
from typing import Final

from tritext.text.tokenizer import TextInput

_FILE: Final = "texts.json"


def parity_texts(*, pairs: bool) -> list[TextInput]:
    """Single texts, and text pairs too where the task takes them. One is far longer than any model's maximum."""
    stored = json.loads(resources.files(__package__).joinpath(_FILE).read_text(encoding="utf-8"))
    declaration, edge = stored["declaration"], stored["edge"]
    longest = declaration[-1]
    texts: list[TextInput] = [*declaration, *edge, f"{longest} " * 20]
    if pairs:
        texts += [(first, second) for first, second in stored["pairs"]]
        texts += [(longest * 3, declaration[0]), (declaration[1], longest * 3), (longest * 3, longest * 3)]
    return texts
