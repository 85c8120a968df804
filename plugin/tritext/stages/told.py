"""What the steps tell `tritext serve` beside their answers: whose log line it is, and lines for the access log.

The first travels as text in Triton's log, the others through a pipe of their own. Imports nothing but the standard
library.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tritext import contract
from tritext.errors import TritextError
from tritext.naming import STEP_PATTERN

# In the environment of a server's steps: the open file that wants a line of each request.
ACCESS_LOG: Final = "TRITEXT_ACCESS_LOG"

_HEAD: Final = re.compile(r'\[(?P<step>[\w.-]+)(?: (?P<id>"(?:[^"\\]|\\.)*"))?\] ')
_ID: Final = 128  # characters of a request's id that are kept
_AT_ONCE: Final = 4000  # bytes; a pipe keeps what is written at once together up to 4096


def headed(step: str, request_id: str, message: str) -> str:
    """`message` of `step`, about the request with this id where there is one."""
    return f"[{step}{' ' + json.dumps(request_id[:_ID]) if request_id else ''}] {message}"


def unheaded(message: str) -> tuple[str | None, str | None, str]:
    """Step, request id and message of what `headed` made; None for what is not said."""
    head = _HEAD.match(message)
    if head is None:
        return None, None, message
    return head["step"], json.loads(head["id"]) if head["id"] else None, message[head.end() :]


class AccessLines:
    """Writes to the open file `out` what one step knows of the requests that it answered; `step` is its Triton name.

    The first step knows texts and tokens and when a request came, the last one when it was done. Whoever reads the
    lines puts them together by the requests' ids.
    """

    def __init__(self, step: str, out: int) -> None:
        self._out = out
        match = STEP_PATTERN.fullmatch(step)
        self._model, role = (match["name"], match["role"]) if match else (step, "")
        self._is_first, self._is_last = role == "tokenizer", role == "postprocess"

    @classmethod
    def wanted(cls, step: str) -> "AccessLines | None":
        """None where the server that started this process wants no access log."""
        out = os.environ.get(ACCESS_LOG)
        return cls(step, int(out)) if out else None

    def write(self, ids: Sequence[str], answers: Sequence[Mapping[str, Any] | TritextError], began: float) -> None:
        """Tell of requests with these `ids`, which the step took at `began` (monotonic), and its `answers`."""
        now = time.monotonic()
        pending = b""
        for each in self._records(ids, answers, began, now):
            line = f"{json.dumps(each)}\n".encode()
            if len(pending) + len(line) > _AT_ONCE:
                os.write(self._out, pending)
                pending = b""
            pending += line
        if pending:
            os.write(self._out, pending)

    def _records(
        self, ids: Sequence[str], answers: Sequence[Mapping[str, Any] | TritextError], began: float, now: float
    ) -> Iterator[dict[str, Any]]:
        for request_id, answer in zip(ids, answers, strict=True):
            record: dict[str, Any] = {"model": self._model, "id": request_id[:_ID]}
            if self._is_first:
                record["began"] = began
                if not isinstance(answer, TritextError):
                    counts = answer[contract.TOKEN_COUNT.name]
                    record |= {"texts": len(counts), "tokens": int(counts.sum())}
            if isinstance(answer, TritextError):
                yield {**record, "ended": now, "error": type(answer).__name__}
            elif self._is_first:
                yield record
            elif self._is_last:
                yield {**record, "ended": now}
