"""What a stage needs to know of its model: ``settings.json`` in the stage's version folder."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from tritext.errors import RepositoryError
from tritext.stored import check_fields, check_inside, read_json

SETTINGS: Final = "settings.json"
TOKENIZER: Final = "tokenizer.json"


class _Stored:
    """A dataclass that is written as JSON and read back; lists come back as tuples."""

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)  # type: ignore[call-overload]
        (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote into `folder`; RepositoryError where it is missing or damaged."""
        path = folder / SETTINGS
        try:
            values = read_json(path)
            read = cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
            check_fields(read)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RepositoryError(f"{path} cannot be read ({error}). Build the model again.") from error
        return read


@dataclass(frozen=True)
class TaskSettings(_Stored):
    """Read by the tokenizer and the postprocess stage."""

    task: str
    labels: tuple[str, ...]  # by class index
    problem_type: str | None
    max_length: int  # tokens, special tokens included
    encoder_inputs: tuple[str, ...]  # of contract.ENCODER_INPUTS, those that the graph takes
    pad_id: int
    unk_id: int | None
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of request parameters, chosen at build
    mask_id: int | None = None  # only where answers are for mask tokens
    options: Mapping[str, Any] = field(default_factory=dict)  # what else the task is told at build
    lengths: tuple[int, ...] = ()  # each request is padded up to one of them; where there are none, to its longest text
    most_rows: int = 0  # that a request may become; 0 in older builds, which make no windows


@dataclass(frozen=True)
class Variant:
    """One way to run the encoder: an engine, a precision, its artefact and how texts are laid out in its calls."""

    engine: str
    precision: str
    artefact: str  # file name
    layout: Mapping[str, Any]  # as tritext.engines.layouts writes it
    tolerance: float  # how far a logit may be from the checkpoint's in check.npz
    options: Mapping[str, Any] = field(default_factory=dict)  # the engine's own

    def __post_init__(self) -> None:
        check_fields(self)
        check_inside(self.artefact)


@dataclass(frozen=True)
class EngineSettings(_Stored):
    """Read by the encoder stage, which takes the first of `variants` that this machine runs rightly."""

    inputs: tuple[str, ...]
    pad_id: int
    per_text: bool  # one row of logits a text, not one a token
    variants: tuple[Variant, ...]
    longest: int = 0  # tokens of a row, padding included, as the tokenizer step sends them; 0 in older builds: any
    mask_id: int | None = None  # where it is said, there is a row of logits for each of these tokens, and no others

    def __post_init__(self) -> None:
        if not isinstance(self.variants, tuple):
            raise TypeError("variants is no list")  # iterating a mapping would give its keys
        read = (each if isinstance(each, Variant) else Variant(**each) for each in self.variants)
        object.__setattr__(self, "variants", tuple(read))
