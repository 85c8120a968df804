"""Headers of gRPC calls on their way through the fence."""

from typing import Final

from hpack import Decoder, HPACKError

from tritext.given_up import HEADER
from tritext.http2 import Malformed, literals

_REMEMBERED: Final = 256  # blocks; callers send the same few again and again
_LEFT_OUT: Final = frozenset((b"grpc-timeout", HEADER.encode()))
_SIZE_UPDATE: Final = 0x20  # how a block begins that changes the table's size


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
        stands_alone = self._decoder.header_table_size == 0 and block[:1] and block[0] & 0xE0 != _SIZE_UPDATE
        try:
            headers = self._decoder.decode(block, raw=True)
        except HPACKError as error:
            raise Malformed from error
        passed = literals(*((name, value) for name, value in headers if name.lower() not in _LEFT_OUT))
        if stands_alone:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[block] = passed
        return passed
