"""The frames of HTTP/2 that the fence in front of gRPC writes itself, or changes on their way (RFC 9113)."""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from tritext.http2 import (
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADER_TABLE_SIZE,
    HEADERS,
    LARGEST_FRAME,
    MAX_FRAME_SIZE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Malformed,
    frame,
    literals,
)

# The last word on a setting counts: no table of headers, and frames of the usual size.
_LAST_SETTINGS: Final = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, MAX_FRAME_SIZE, LARGEST_FRAME)
_NUMBER: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_STREAM_AT: Final = 5  # in a frame
_REFUSED: Final = _NUMBER.pack(7)  # as the reason of a reset: nothing was done for that call


def opened(stream: int, block: bytes, *, is_whole: bool) -> bytes:
    """A call's headers, in as many frames as they need; `is_whole`: nothing else follows."""
    head, rest = block[:LARGEST_FRAME], block[LARGEST_FRAME:]
    end = END_STREAM if is_whole else 0
    parts = [frame(HEADERS, end if rest else END_HEADERS | end, stream, head)]
    while rest:
        head, rest = rest[:LARGEST_FRAME], rest[LARGEST_FRAME:]
        parts.append(frame(CONTINUATION, 0 if rest else END_HEADERS, stream, head))
    return b"".join(parts)


def ended(stream: int, status: int, sentence: str, *, is_first: bool, is_whole: bool) -> bytes:
    """The end of a call with a status of gRPC's; where it is not whole, the rest of it is said not to be wanted.

    `is_first`: its caller has no headers of an answer yet.
    """
    headers = _last_headers(status, sentence, is_first=is_first)
    enough = b"" if is_whole else frame(RST_STREAM, 0, stream, bytes(4))
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, headers) + enough


@lru_cache(maxsize=64)
def _last_headers(status: int, sentence: str, *, is_first: bool) -> bytes:
    first = ((":status", "200"), ("content-type", "application/grpc")) if is_first else ()
    return literals(*first, ("grpc-status", str(status)), ("grpc-message", sentence))


def refused(stream: int) -> bytes:
    """A call is not taken, and may be asked again elsewhere."""
    return frame(RST_STREAM, 0, stream, _REFUSED)


def numbered(raw: bytes, stream: int, flags: int) -> bytes:
    """A frame on another stream, and perhaps with fewer flags."""
    if raw[4] == flags and _NUMBER.unpack_from(raw, _STREAM_AT) == (stream,):
        return raw
    return frame(raw[3], flags, stream, raw[FRAME.size :])


def parted(raw: bytes, last: int) -> bytes:
    """A GOAWAY that names `last` as the last stream."""
    return raw[: FRAME.size] + _NUMBER.pack(last) + raw[FRAME.size + 4 :]


def settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Names and values."""
    if len(payload) % _SETTING.size:
        raise Malformed
    return _SETTING.iter_unpack(payload)


def settled(payload: bytes) -> bytes:
    """Settings, with ours as the last word."""
    return frame(SETTINGS, 0, 0, payload + _LAST_SETTINGS)


def widened(stream: int, size: int) -> bytes:
    """Room for `size` more bytes on `stream`."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(size)) if size > 0 else b""
