"""HTTP/2 (RFC 9113) as the load generator and the fence in front of gRPC write and read it: frames, and headers."""

import struct
from collections.abc import Iterator
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
CANCEL: Final = 8  # the code of a reset

WINDOW: Final = 65_535  # of both directions before anybody says otherwise
WIDEST: Final = 2**31 - 1
LARGEST_FRAME: Final = 16_384  # before anybody says otherwise
FRAME: Final = struct.Struct(">BHBBI")  # length in 24 bits, type, flags, stream
MESSAGE: Final = struct.Struct(">BI")  # gRPC's own prefix: whether it is compressed, length


class Malformed(Exception):
    """What came is no HTTP/2, or more of it than is taken."""


def frame(kind: int, flags: int, number: int, payload: bytes | memoryview) -> bytes:
    """One frame of the stream `number`."""
    return FRAME.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, number) + payload


def bare(flags: int, payload: bytes) -> bytes:
    """A payload of DATA or HEADERS without padding and priority; Malformed where it is shorter than these."""
    if flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise Malformed
        payload = payload[1 : len(payload) - payload[0]]
    if flags & PRIORITY:
        if len(payload) < 5:
            raise Malformed
        payload = payload[5:]
    return payload


def literals(*headers: tuple[str | bytes, str | bytes]) -> bytes:
    """A block of headers that stand there as they are and are not to be remembered (HPACK, RFC 7541)."""
    block = b""
    for header in headers:
        block += b"\x00"  # a literal, new name, not to be indexed
        for part in header:
            raw = part.encode() if isinstance(part, str) else part
            block += _length(len(raw)) + raw
    return block


def _length(size: int) -> bytes:
    """Of a string that is not Huffman's code."""
    if size < 0x7F:
        return bytes((size,))
    size -= 0x7F
    rest = b""
    while size > 0x7F:
        rest += bytes((size & 0x7F | 0x80,))
        size >>= 7
    return b"\x7f" + rest + bytes((size,))


class Frames:
    """Cuts what arrives on a connection into frames, none longer than `LARGEST_FRAME`."""

    def __init__(self) -> None:
        self._rest = b""

    def read(self, data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and all bytes of each frame that `data` completes; Malformed where one is too long."""
        data = self._rest + data if self._rest else data
        at, size = 0, len(data)
        while size - at >= FRAME.size:
            high, low, kind, flags, number = FRAME.unpack_from(data, at)
            length = high << 16 | low
            if length > LARGEST_FRAME:
                raise Malformed
            end = at + FRAME.size + length
            if end > size:
                break
            yield kind, flags, number & WIDEST, data[at:end]
            at = end
        self._rest = data[at:]
