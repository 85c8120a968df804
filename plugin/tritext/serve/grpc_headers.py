"""Headers of gRPC calls on their way through the fence."""

import re
from typing import Final

from hpack import Decoder, HPACKError

from tritext.given_up import HEADER
from tritext.http2 import Malformed, literals

_REMEMBERED: Final = 64  # blocks; callers send the same few again and again
_SMALL: Final = 1 << 10  # bytes of one that is worth it
_LEFT_OUT: Final = frozenset((b"grpc-timeout", HEADER.encode()))
_SIZE_UPDATES: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f])+")  # how a block may begin
_MOST_UPDATES: Final = 16  # bytes of them; two are what a caller may need


class Headers:
    """Reads what one caller's connection sends, in order: HPACK remembers (RFC 7541), unless told not to."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, bytes] = {}

    def passed_on(self, block: bytes) -> bytes:
        """The headers in `block` for Triton, but for the call's deadline, in a block that refers to no other.

        http2.Malformed where it is not legible.
        """
        if (known := self._known.get(block)) is not None:
            return known
        updates = _SIZE_UPDATES.match(block)
        if updates and updates.end() > _MOST_UPDATES:
            raise Malformed
        stands_alone = self._decoder.header_table_size == 0 and not updates
        try:
            headers = self._decoder.decode(block, raw=True)
        except (HPACKError, IndexError) as error:
            raise Malformed from error
        passed = literals(*((name, value) for name, value in headers if name.lower() not in _LEFT_OUT))
        if stands_alone and len(block) <= _SMALL:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = passed
        return passed
