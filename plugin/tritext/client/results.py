"""What a call gives back. All are frozen: they can be kept, shared between threads and compared."""

from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True, slots=True)
class LabelScore:
    """One label of a text. ``score`` is as the model gives it: a probability, or a raw value for a regression."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The labels of one text (or pair), best first; none where `threshold` left none.

    ``token_count`` counts the tokens of the whole text; ``truncated`` says that the model did not see them all.
    """

    labels: tuple[LabelScore, ...]
    token_count: int
    truncated: bool

    @property
    def label(self) -> str | None:
        """The best label; None where there is none."""
        return self.labels[0].label if self.labels else None

    @property
    def score(self) -> float | None:
        """The best label's score; None where there is no label."""
        return self.labels[0].score if self.labels else None


@dataclass(frozen=True, slots=True)
class Entity:
    """A stretch of a text with its label: ``word == text[start:end]``, counted in Unicode code points."""

    label: str
    score: float
    word: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class TokenClassification:
    """The entities of one text in the order of the text; the rest as in `Classification`."""

    entities: tuple[Entity, ...]
    token_count: int
    truncated: bool


Result = Classification | TokenClassification
R = TypeVar("R", Classification, TokenClassification)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a served model says of itself.

    ``labels`` are in the order of the checkpoint's class indices, ``max_length`` counts tokens with special
    ones included, ``max_batch_size`` is the most texts in one request.
    """

    name: str
    task: str
    labels: tuple[str, ...]
    max_length: int
    max_batch_size: int
    build: str
