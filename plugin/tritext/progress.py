"""How long work tells what it is doing, without knowing who listens."""

from typing import Protocol


class Progress(Protocol):
    """A listener. `step` opens a long step; its `advance` and `done` go to the latest one opened."""

    def step(self, title: str, total: int | None = None) -> None:
        """A step begins; `total` is how many `advance` calls to expect, None where that is unknown."""
        ...

    def advance(self) -> None:
        """One unit of the step is done."""
        ...

    def done(self, note: str = "") -> None:
        """The step ended well; `note` is what came of it."""
        ...

    def tell(self, line: str) -> None:
        """Something that whoever waits should know at once."""
        ...


class Silent:
    """Nobody listens."""

    def step(self, title: str, total: int | None = None) -> None:
        """Ignored."""

    def advance(self) -> None:
        """Ignored."""

    def done(self, note: str = "") -> None:
        """Ignored."""

    def tell(self, line: str) -> None:
        """Ignored."""
