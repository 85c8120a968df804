"""Which refusals are worth another try, and when. Pure but for the clock and the dice.

A server under too much load says UNAVAILABLE, and mostly when to come back: that is waited for, and then some time
more, at random and longer with each try, so that those who were refused together do not come back together (Brooker,
"Exponential Backoff And Jitter", 2015). A step of the model that has died or is being reloaded may be back soon, or
never, so that such tries are counted. Where nobody answers at all, or the request itself is at fault, there are none.
"""

import random
import re
import time
from dataclasses import dataclass
from typing import Any, Final

_HINT: Final = re.compile(r"Try again in (\d+(?:\.\d+)?) s\b")
_FULL: Final = re.compile(r"Exceeds maximum queue size")
_BROKEN: Final = re.compile(
    r"Stub process .* is not healthy|\bin ensemble .*unknown model"
    # Of the step, or of the ensemble itself, which Triton calls so while a step of it is away.
    r"|not at ready state|no available versions"
)

FIRST: Final = 0.1  # seconds
LONGEST: Final = 4.0
BROKEN_RETRIES: Final = 8  # about ten seconds


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that may be another later; `hint`: when, as the server says; `is_broken`: a step is out of order."""

    hint: float | None = None
    is_broken: bool = False

    @classmethod
    def of(cls, code: str, details: str) -> "Refusal | None":
        """What a gRPC status says; None where another try could not succeed."""
        if code == "UNAVAILABLE" and (hint := _HINT.search(details)):
            return cls(float(hint[1]))
        if code == "UNAVAILABLE" and _FULL.search(details):
            return cls()
        return cls(is_broken=True) if _BROKEN.search(details) else None


class Patience:
    """One request's: how long it waits for each further try, until `deadline` (monotonic) or after `retries` of them.

    Without `retries`, an overload is waited for until the deadline, and a broken step for `BROKEN_RETRIES` tries. Where
    the deadline is the request's own, `is_own`, it moves by the time for which a refusal lies there unread: then the
    caller had results to work on, or those of earlier requests were waited for.
    """

    def __init__(self, deadline: float, retries: int | None, *, is_own: bool = False) -> None:
        self._deadline = deadline
        self._retries = retries
        self._is_own = is_own
        self._tries = 0
        self._arrived: list[float] = []

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def watch(self, answer: Any) -> None:
        """Note when `answer`, gRPC's future of a try that was just sent, arrives."""
        # A list for each try: gRPC's thread may come late with that of the one before.
        arrived = self._arrived = []
        answer.add_done_callback(lambda _: arrived.append(time.monotonic()))

    def wait(self, refusal: Refusal) -> float | None:
        """Seconds to wait before the next try; None where that is too late, or once too often.

        The time for which `refusal` lay there unread ends here.
        """
        if self._is_own and self._arrived:
            self._deadline += time.monotonic() - self._arrived.pop()
        most = BROKEN_RETRIES if self._retries is None and refusal.is_broken else self._retries
        if most is not None and self._tries >= most:
            return None
        longest = min(LONGEST, FIRST * 2.0**self._tries)
        dice = random.random()  # noqa: S311 - no secret
        seconds = longest * (1 + dice) / 2 if refusal.hint is None else refusal.hint * (1 + dice / 2) + longest * dice
        if seconds >= self.left:
            return None
        self._tries += 1
        return seconds
