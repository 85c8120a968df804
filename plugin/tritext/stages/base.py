"""What a stage is, and the rule that one request never harms another."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, Self

from numpy.typing import NDArray

from tritext.errors import InvalidInput, TritextError

Answer = dict[str, NDArray[Any]]

_log: Final = logging.getLogger("tritext")


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a stage. `inputs` leaves out what was not sent; `parameters` are as sent."""

    inputs: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, object] = field(default_factory=dict)


class Stage(Protocol):
    """A step of the ensemble: requests in, one answer or one error for each."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Make the stage from its version folder."""
        ...

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        """Answer `requests` together; a request's own fault comes back in its place, other faults raise."""
        ...


class StageFault(TritextError):
    """The stage failed on a request that is not known to be at fault. The log has the traceback."""


def process_isolated(stage: Stage, requests: Sequence[Request]) -> list[Answer | TritextError]:
    """`stage.process`, but where it raises each request is tried alone, so that only the culprit fails."""
    try:
        return stage.process(requests)
    except InvalidInput as error:
        if len(requests) == 1:
            return [error]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - a panic in a Rust or C++ extension is no Exception
        if len(requests) == 1:
            _log.exception("%s failed on a request", type(stage).__name__)
            return [StageFault(f"The server failed in {type(stage).__name__}; its log has the details.")]
    return [answer for request in requests for answer in process_isolated(stage, [request])]
