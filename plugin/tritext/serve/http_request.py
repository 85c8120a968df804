"""The head of an HTTP request, read strictly (RFC 9112), and whether its JSON is one that Triton's parser can stand."""

import re
from dataclasses import dataclass, replace
from typing import Final

MAX_DEPTH: Final = 64  # of nested JSON
MAX_TOKENS: Final = 1 << 22  # strings, and ends of arrays and objects, of JSON that is nested at all
_START: Final = re.compile(rb"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.([01])")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
# A string that never ends is one too, and nothing is tried twice (possessive): the work grows with the length alone.
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


class Refused(Exception):
    """A request that goes no further; the connection ends with it."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """The request line and the header fields, as they were sent; `minor` is the version's."""

    method: bytes
    target: bytes
    minor: bytes
    fields: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def read(cls, head: bytes) -> "Head":
        """Take a head apart that ends with its empty line; Refused where a line is none that RFC 9112 knows."""
        first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        start = _START.fullmatch(first)
        found = [_FIELD.fullmatch(line) for line in lines]
        if start is None or not all(found):
            raise Refused("400 Bad Request", "This is not an HTTP/1.1 request.")
        return cls(start[1], start[2], start[3], tuple((m[1], m[2].rstrip()) for m in found if m))

    def get(self, name: bytes) -> bytes | None:
        """The value of a field that may be there once; refused where it is there twice."""
        values = [value for key, value in self.fields if key.lower() == name]
        if len(values) > 1:
            raise Refused("400 Bad Request", f"The header {name.decode()} is there {len(values)} times. Send it once.")
        return values[0] if values else None

    def without(self, name: bytes) -> "Head":
        """The same without a field."""
        return replace(self, fields=tuple(field for field in self.fields if field[0].lower() != name))

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def goes_on(self) -> bool:
        """Whether the caller wants to ask again over the same connection."""
        said = [word.strip().lower() for key, value in self.fields if key.lower() == b"connection"
                for word in value.split(b",")]  # fmt: skip
        return self.minor == b"1" and b"close" not in said


def check_json(document: bytes) -> None:
    """Refused where a parser would go deeper in it than Triton's can stand, be it JSON to its end or not."""
    if document.count(b"[") + document.count(b"{") <= MAX_DEPTH:
        return
    level = 0
    for number, token in enumerate(_TOKEN.finditer(document)):
        if (first := document[token.start()]) in b"[{":
            level += 1
            if level > MAX_DEPTH:
                raise Refused("400 Bad Request", f"The JSON is nested more than {MAX_DEPTH} deep. Send it flat.")
        elif first in b"]}":
            level -= 1
        if number > MAX_TOKENS:
            sentence = f"The JSON has more than {MAX_TOKENS:,} strings and arrays. Send fewer texts at a time."
            raise Refused("413 Content Too Large", sentence)


def check_body(body: bytes, json_length: bytes | None) -> None:
    """`check_json` of all of it, or of as many bytes at its beginning as `json_length` says."""
    size = len(body)
    if json_length is not None:
        if not json_length.isdigit() or len(json_length) > 12 or int(json_length) > len(body):
            shown = json_length[:40].decode("latin-1")
            sentence = (
                f"Inference-Header-Content-Length is {shown!r}; it must be a number of bytes, at most {len(body)}."
            )
            raise Refused("400 Bad Request", sentence)
        size = int(json_length)
    check_json(body[:size])
