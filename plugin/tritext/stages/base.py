"""What a stage is, and the rule that one request never harms another."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self, runtime_checkable

from numpy.typing import NDArray

from tritext.errors import InvalidInput, Overloaded, StageFault, TritextError

Answer = dict[str, NDArray[Any]]

# The field of a log record that names the request.
REQUEST_ID: Final = "request_id"

# What a request is told whose caller has gone: nobody reads it, but it is counted, and seen in the access log.
GIVEN_UP: Final = "Its caller does not wait for it any more."

_log: Final = logging.getLogger("tritext")
_log.addHandler(logging.NullHandler())  # outside of Triton nobody may listen, and then nothing goes to stderr


@dataclass(slots=True)
class Request:
    """One request to a stage. `inputs` leaves out what was not sent; `parameters` are as sent.

    ``timeout``: the seconds that its caller gave it, None for any time; ``id``: what its caller calls it, if anything;
    ``call``: its number among `tritext.calls`, 0 where it came another way; ``is_given_up``: nobody waits for its
    answer any more. It is not frozen, since that would cost time for each field.
    """

    inputs: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, object] = field(default_factory=dict)
    timeout: float | None = None
    id: str = ""
    call: int = 0
    is_given_up: bool = False

    @property
    def known_as(self) -> int | str:
        """What all steps know it by; 0 or "" where that is nothing."""
        return self.call or self.id


@dataclass(frozen=True, slots=True)
class Count:
    """A Prometheus counter, tritext_`name`_total; it has the step's name as its label `model`, and perhaps a reason."""

    name: str
    reason: str = ""


Counts = dict[Count, float]
"""What a step has done since it was loaded. The keys never change."""

STEP_SECONDS: Final = Count("step_seconds")
TEXTS: Final = Count("texts")
TOKENS: Final = Count("tokens")
COMPUTED_TOKENS: Final = Count("computed_tokens")
ENCODER_CALLS: Final = Count("encoder_calls")
TRUNCATIONS: Final = Count("truncations")
REFUSED_INVALID: Final = Count("refusals", "invalid")
REFUSED_OVERLOAD: Final = Count("refusals", "overload")
REFUSED_EXPIRED: Final = Count("refusals", "expired")

DESCRIPTIONS: Final[Mapping[str, str]] = {
    "step_seconds": "Seconds that the step was at work.",
    "texts": "Texts encoded.",
    "tokens": "Tokens encoded, padding left out.",
    "computed_tokens": "Positions that the engine computed, padding included.",
    "encoder_calls": "Calls of the engine.",
    "truncations": "Texts that were cut.",
    "refusals": "Requests refused: invalid, for overload, or because their own time was up or would have been.",
}


@runtime_checkable
class Counting(Protocol):
    """A stage that counts."""

    counts: Counts


def zeros(*counts: Count) -> Counts:
    """Nothing of each so far."""
    return dict.fromkeys(counts, 0.0)


def refusal(error: TritextError) -> Count | None:
    """What `error` is counted as; None where it is no refusal."""
    if isinstance(error, InvalidInput):
        return REFUSED_INVALID
    if isinstance(error, Overloaded):
        return REFUSED_EXPIRED if error.misses_deadline else REFUSED_OVERLOAD
    return None


class Stage(Protocol):
    """A step of the ensemble: requests in, one answer or one error for each."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Make the stage from its version folder."""
        ...

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        """Answer `requests` together; a request's own fault comes back in its place, other faults raise."""
        ...


def fault(stage: Stage, error: BaseException, request_id: str = "") -> StageFault:
    """What a caller may know of `error`, which `stage` raised on a request; the log gets all of it."""
    name = type(stage).__name__
    _log.error("%s failed on a request", name, exc_info=error, extra={REQUEST_ID: request_id})
    where = f", under request id {request_id}" if request_id else ""
    answer = StageFault(f"The server failed in {name}; its log has the details{where}.")
    answer.__cause__ = error
    return answer


def process_isolated(stage: Stage, requests: Sequence[Request]) -> list[Answer | TritextError]:
    """`stage.process`, but where it raises each request is tried alone, so that only the culprit fails."""
    try:
        return stage.process(requests)
    except InvalidInput as error:
        if len(requests) == 1:
            return [error]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - a panic in a Rust or C++ extension is no Exception
        if len(requests) == 1:
            return [fault(stage, error, requests[0].id)]
    return [answer for request in requests for answer in process_isolated(stage, [request])]
