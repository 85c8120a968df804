"""How a server's log is written: as Triton does, or as one JSON object a line."""

import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TextIO

from tritext.stages.told import unheaded

SERVER: Final = "tritext"
TRITON: Final = "triton"
_TRITON_LINE: Final = re.compile(r"[EWIFV]\d{4} [\d:.]+ +\d+ [\w./]+:\d+\] *(?P<message>.*)")
_REQUEST_ID: Final = re.compile(r"\[request id: (?!<id_unknown>)([^\]]*)\]")
_TABLE: Final = re.compile(r"^\s*($|[|+])|^I\d{4} .*\] *$")


class LogFormat(Protocol):
    """Makes the lines that are shown; None leaves one out."""

    def line(self, line: str, level: str) -> str | None:
        """A line of Triton's own, or of a step."""
        ...

    def access(self, record: Mapping[str, Any]) -> str:
        """A request that has ended, see AccessLog."""
        ...


class TextFormat:
    """Triton's lines as they are."""

    def line(self, line: str, level: str) -> str | None:
        """See LogFormat."""
        del level
        return line

    def access(self, record: Mapping[str, Any]) -> str:
        """See LogFormat. Quotes keep a caller's words on one line."""
        return "access " + " ".join(f"{name}={json.dumps(value)}" for name, value in record.items())


class JsonFormat:
    """Objects with time (UTC), level, source (triton, a step's name, access or tritext), message and request_id."""

    def line(self, line: str, level: str) -> str | None:
        """See LogFormat."""
        if _TABLE.match(line):
            return None
        match = _TRITON_LINE.match(line)
        step, request_id, message = unheaded(unquote(match["message"]) if match else line)
        if request_id is None and (found := _REQUEST_ID.search(message)):
            request_id = found[1]
        known = {} if request_id is None else {"request_id": request_id}
        return event(level, step or TRITON, message=message, **known)

    def access(self, record: Mapping[str, Any]) -> str:
        """See LogFormat."""
        return event("info", "access", **record)


class JsonStream(io.TextIOBase):
    """A stream for whatever else is said: each line of it is written to `out` as a JSON object, `source` tritext."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._rest = ""

    def write(self, text: str) -> int:
        """Write the lines that are complete."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, map(str.rstrip, lines)):
            level = "error" if line.startswith("error: ") else "info"
            self._out.write(event(level, SERVER, message=line.removeprefix("error: ")) + "\n")
        self._out.flush()
        return len(text)


def event(level: str, source: str, **fields: Any) -> str:
    """One line of JSON."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, "level": level, "source": source, **fields}, ensure_ascii=False)


def unquote(message: str) -> str:
    """What Triton put in quotes, so that it stays on one line."""
    try:
        return str(json.loads(message)) if message.startswith('"') else message
    except ValueError:
        return message
