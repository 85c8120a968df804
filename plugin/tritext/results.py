"""What all results have in common. Loads nothing, for clients; each task's own stands in its file under `tasks`."""

from dataclasses import fields
from typing import Any, ClassVar, Literal, Protocol

# How results are written: the best of each text first, places in the text, or one row of numbers.
Form = Literal["ranked", "spans", "vector"]


class Result(Protocol):
    """What a call gives back for one text: a frozen dataclass whose first field holds its entries."""

    form: ClassVar[Form]

    @property
    def token_count(self) -> int:
        """Tokens of the whole text."""
        ...

    @property
    def truncated(self) -> bool:
        """Whether the model did not see them all."""
        ...


def entries(result: Result) -> tuple[Any, ...]:
    """A result's entries, whatever it calls them."""
    found: tuple[Any, ...] = getattr(result, fields(result)[0].name)  # type: ignore[arg-type]
    return found
