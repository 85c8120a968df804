"""Two tiny models, what `transformers` says to the same texts, and a client that other processes can run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritext import Client
from tritext.client import Classification, TokenClassification

TEXTS = (
    "Hello world", "Ein zweiter, etwas längerer Text über Freiheit und Würde.", "日本語 🙂", "a",
    "All human beings are born free and equal in dignity and rights. " * 3, "すべての人間は、生れながらにして自由",
    "They are endowed with reason and conscience", "et doivent agir les uns envers les autres",
)  # fmt: skip
Answers = list[Any]


def labels(url: str, texts: Sequence[str] = TEXTS) -> Answers:
    """The best label of each text, by one gRPC call."""
    with Client(url, timeout=60) as client:
        return [result.label for result in client.classify("labels", texts, result_type=Classification)]


def entities(url: str, texts: Sequence[str] = TEXTS) -> Answers:
    """Label and place of every entity of each text."""
    with Client(url, timeout=60) as client:
        results = client.classify("entities", texts, result_type=TokenClassification)
        return [[(e.label, e.start, e.end) for e in result.entities] for result in results]


def expected_labels(checkpoint: Path) -> Answers:
    """What `transformers.pipeline` gives for `TEXTS`."""
    import transformers

    pipe: Any = transformers.pipeline("text-classification", model=str(checkpoint), device="cpu")
    return [pipe(text, truncation=True)[0]["label"] for text in TEXTS]


def expected_entities(checkpoint: Path) -> Answers:
    """The same for the entities."""
    import transformers

    pipe: Any = transformers.pipeline("token-classification", model=str(checkpoint), device="cpu")
    return [[(e["entity"], e["start"], e["end"]) for e in pipe(text)] for text in TEXTS]


def ask_often(url: str, seed: int, rounds: int) -> list[tuple[str, int, Any]]:
    """Model, text and answer of each of `rounds` calls to either model, one after the other, in an order of its own."""
    found = []
    with Client(url, timeout=60) as client:
        for turn in range(rounds):
            which = (turn * 5 + seed) % len(TEXTS)
            if (turn + seed) % 2:
                (label,) = client.classify("labels", [TEXTS[which]], result_type=Classification)
                found.append(("labels", which, label.label))
            else:
                (found_in,) = client.classify("entities", [TEXTS[which]], result_type=TokenClassification)
                found.append(("entities", which, [(e.label, e.start, e.end) for e in found_in.entities]))
    return found
