"""Headers of gRPC calls on their way through the fence."""

import re
from dataclasses import dataclass
from typing import Final

from hpack import Decoder, HPACKError

from tritext.http2 import Malformed, literals

_REMEMBERED: Final = 64  # blocks; callers send the same few again and again
_SMALL: Final = 1 << 10  # bytes of one that is worth it
_DEADLINE: Final = b"grpc-timeout"
MOST_HEADERS: Final = 16 << 10  # bytes of a call's, compressed or not: more than gRPC's server takes
_SIZE_UPDATES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f])+")  # how a block may begin
_MOST_UPDATES: Final = 16  # bytes of them; two are what a caller may need
_STATIC: Final = 61  # entries of the table that everybody has


@dataclass(frozen=True, slots=True)
class Passed:
    """A call's headers as they go on: in a `block` that refers to no other. Its method's `path`."""

    block: bytes
    path: bytes


class Headers:
    """Reads what one caller's connection sends, in order: HPACK remembers (RFC 7541), unless told not to.

    `own` is a header's name that is not the caller's to send.
    """

    def __init__(self, own: str) -> None:
        self._left_out = {_DEADLINE, own.encode()}
        self._decoder = Decoder()
        self._known: dict[bytes, Passed] = {}

    def passed_on(self, block: bytes) -> Passed:
        """The headers in `block` for Triton, but for the call's deadline.

        http2.Malformed where it is not legible, has two paths or is too large.
        """
        if (known := self._known.get(block)) is not None:
            return known
        updates = _SIZE_UPDATES.match(block)
        if updates and updates.end() > _MOST_UPDATES:
            raise Malformed
        stands_alone = not updates and (self._decoder.header_table_size == 0 or _stands_alone(block))
        try:
            headers = self._decoder.decode(block, raw=True)
        except (HPACKError, IndexError) as error:
            raise Malformed from error
        kept = [(name, value) for name, value in headers if name.lower() not in self._left_out]
        paths = [value for name, value in kept if name == b":path"]
        passed = Passed(literals(*kept), b"".join(paths))
        if len(paths) > 1 or len(passed.block) > MOST_HEADERS:
            raise Malformed
        if stands_alone and len(block) <= _SMALL:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = passed
        return passed


def _stands_alone(block: bytes) -> bool:
    """Whether `block` neither refers to earlier ones nor is to be remembered, whatever else is in it."""
    at = 0
    while at < len(block):
        first = block[at]
        at += 1
        if first & 0x80:
            if first & 0x7F > _STATIC:
                return False
            continue
        index = first & 0x0F
        if first & 0x60 or index == 0x0F:  # to be remembered, or a longer index than is worth reading
            return False
        for _ in range(1 if index else 2):
            size = block[at] & 0x7F if at < len(block) else 0x7F
            if size == 0x7F:
                return False
            at += 1 + size
    return at == len(block)
