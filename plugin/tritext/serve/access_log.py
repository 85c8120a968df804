"""One line for each request, out of what its steps tell one by one."""

import json
from collections import deque
from typing import Any, Final

# Requests under way that are remembered. One that no step ends, because Triton refused it in between, is told of
# without its end when so many others have come.
_MOST: Final = 10_000

Record = dict[str, Any]


class AccessLog:
    """Takes the steps' lines, gives what is known of a request once it has ended.

    A record has model, request_id, texts and tokens, as far as the first step came, seconds from there to the end of
    the last step, and the kind of error where there was one. A request without an id is told of at once, without
    seconds: nothing says which end is its own.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], deque[Record]] = {}  # the oldest first
        self._count = 0

    def take(self, line: str) -> list[Record]:
        """The records that are complete with `line`, which a step wrote; none where nobody can read it."""
        try:
            told = json.loads(line)
            return self._told(told["model"], told["id"], told)
        except (ValueError, KeyError, TypeError):  # who stops reading stops the steps, once the pipe is full
            return []

    def _told(self, model: str, request_id: str, told: Record) -> list[Record]:
        if "began" in told:
            if "ended" in told or not request_id:
                return [_record(told, told.get("ended"))]
            self._open.setdefault((model, request_id), deque()).append(told)
            self._count += 1
            return [_record(self._pop(next(iter(self._open))), None)] if self._count > _MOST else []
        if not request_id:
            return [_record(told, None)] if "error" in told else []
        begun = self._pop((model, request_id)) if (model, request_id) in self._open else {}
        return [_record({**begun, **told}, told["ended"])] if begun or "error" in told else []

    def _pop(self, key: tuple[str, str]) -> Record:
        """The first of those with this id: ids are the callers' own, and may come twice."""
        waiting = self._open[key]
        first = waiting.popleft()
        self._count -= 1
        if not waiting:
            del self._open[key]
        return first


def _record(told: Record, ended: float | None) -> Record:
    record = {"model": told["model"]}
    if told["id"]:
        record["request_id"] = told["id"]
    record |= {name: told[name] for name in ("texts", "tokens", "error") if name in told}
    if ended is not None and "began" in told:
        record["seconds"] = round(ended - told["began"], 6)
    return record
