"""What of the frames between a gRPC caller and Triton goes on, and what is said instead (RFC 9113)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hpack import HPACKError

from tritext.given_up import HEADER, GivenUp
from tritext.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADER_TABLE_SIZE,
    HEADERS,
    LARGEST_FRAME,
    MAX_FRAME_SIZE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Frames,
    Malformed,
    bare,
    frame,
    literals,
)
from tritext.serve.grpc_headers import Headers

_MOST_HEADERS: Final = 64 << 10  # bytes of a call's
# The last word on a setting counts: no table of headers, and frames of the usual size.
_SETTINGS: Final = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, MAX_FRAME_SIZE, LARGEST_FRAME)
_INCREMENT: Final = struct.Struct(">I")


@dataclass(slots=True, eq=False)
class _Call:
    """`received`: bytes of its answer for which its caller has not made room again."""

    number: int
    is_whole: bool
    is_given_up: bool = False
    received: int = 0


class Relay:
    """One caller's connection, and the one to Triton that carries its calls.

    `numbers` gives each call one of its own; what is given up is noted in `given_up`.
    """

    def __init__(self, numbers: Iterator[int], given_up: GivenUp) -> None:
        self._numbers, self._given_up = numbers, given_up
        self._headers = Headers()
        self._calls: dict[int, _Call] = {}
        self._preface = b""
        self._frames_of_caller, self._frames_of_triton = Frames(), Frames()
        self._block, self._block_of, self._block_flags = b"", 0, 0  # the caller's headers, while they come in parts
        self._dropped = 0  # the stream whose answer's headers come in parts and are left out
        self._received = 0  # as of a call, of all of them
        self._replies: list[bytes] = []  # to Triton
        self.is_abandoned = False

    @property
    def waiting(self) -> int:
        """Calls whose answer somebody waits for."""
        return 0 if self.is_abandoned else sum(not call.is_given_up for call in self._calls.values())

    @property
    def is_done(self) -> bool:
        """Whether Triton has answered everything."""
        return not self._calls

    def from_caller(self, data: bytes) -> bytes:
        """What goes to Triton when `data` arrives; http2.Malformed where it is no HTTP/2."""
        passed = []
        if len(self._preface) < len(PREFACE):
            rest = len(PREFACE) - len(self._preface)
            self._preface += data[:rest]
            if not PREFACE.startswith(self._preface):
                raise Malformed
            passed.append(data[:rest])
            data = data[rest:]
        passed += [self._of_caller(*one) for one in self._frames_of_caller.read(data)]
        return b"".join(passed)

    def from_triton(self, data: bytes) -> tuple[bytes, bytes]:
        """What goes to the caller when `data` arrives, and what back to Triton."""
        passed = b"".join([self._of_triton(*one) for one in self._frames_of_triton.read(data)])
        replies, self._replies = self._replies, []
        return passed, b"".join(replies)

    def abandon(self) -> bytes:
        """The caller has hung up: what goes to Triton."""
        self.is_abandoned = True
        said = [self._give_up(number, call) for number, call in self._calls.items()]
        return b"".join((*said, _widened(0, self._received)))

    def _of_caller(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        if self._block_of and (kind, number) != (CONTINUATION, self._block_of):
            raise Malformed
        if kind == DATA:
            if flags & END_STREAM and (call := self._calls.get(number)):
                call.is_whole = True
            return raw
        if kind in {HEADERS, CONTINUATION}:
            return self._headers_of_caller(kind, flags, number, raw)
        if kind == RST_STREAM:
            call = self._calls.get(number)
            return self._give_up(number, call) if call else raw
        if kind == WINDOW_UPDATE:
            return self._widened_by_caller(number, raw)
        return _settings(flags, raw) if kind == SETTINGS else raw if kind == PING else b""

    def _headers_of_caller(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        """Nothing before they are complete."""
        if kind == CONTINUATION:
            if not self._block_of or len(self._block) > _MOST_HEADERS:
                raise Malformed
            self._block += raw[FRAME.size :]
        else:
            if not number or number in self._calls:
                raise Malformed
            self._block, self._block_of, self._block_flags = bare(flags, raw[FRAME.size :]), number, flags
        return self._opened() if flags & END_HEADERS else b""

    def _opened(self) -> bytes:
        """A call begins, with the headers that have come."""
        stream, block, flags = self._block_of, self._block, self._block_flags & END_STREAM
        self._block, self._block_of = b"", 0
        try:
            passed = self._headers.passed_on(block)
        except (HPACKError, IndexError) as error:
            raise Malformed from error
        call = _Call(next(self._numbers), bool(flags))
        self._calls[stream] = call
        passed += literals((HEADER, str(call.number)))
        parts = [passed[at : at + LARGEST_FRAME] for at in range(0, len(passed), LARGEST_FRAME)]
        kinds = [HEADERS, *[CONTINUATION] * (len(parts) - 1)]
        ends = [0] * (len(parts) - 1) + [END_HEADERS]
        return b"".join(
            frame(kind, end | (flags if kind == HEADERS else 0), stream, part)
            for kind, end, part in zip(kinds, ends, parts, strict=True)
        )

    def _give_up(self, stream: int, call: _Call) -> bytes:
        """Nobody waits for that call any more: it is ended as if all had been sent, and room made for its answer."""
        if call.is_given_up:
            return b""
        call.is_given_up = True
        self._given_up.note(call.number)
        end = b"" if call.is_whole else frame(DATA, END_STREAM, stream, b"")
        return end + _widened(stream, call.received)

    def _widened_by_caller(self, number: int, raw: bytes) -> bytes:
        more = int.from_bytes(raw[FRAME.size :], "big")
        if not number:
            self._received -= more
        elif call := self._calls.get(number):
            if call.is_given_up:
                return b""
            call.received -= more
        return raw

    def _of_triton(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        if kind in {PING, SETTINGS} and self.is_abandoned:
            if not flags & ACK:
                self._replies.append(frame(kind, ACK, 0, raw[FRAME.size :] if kind == PING else b""))
            return b""
        if kind == SETTINGS:
            return _settings(flags, raw)
        if kind == CONTINUATION:
            dropped = number == self._dropped
            if flags & END_HEADERS:
                self._dropped = 0
            return b"" if dropped else raw
        if not number:
            return raw
        return self._answered(kind, flags, number, raw)

    def _answered(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        """A frame of an answer."""
        call = self._calls.get(number)
        if kind == RST_STREAM or (kind in {HEADERS, DATA} and flags & END_STREAM):
            self._calls.pop(number, None)
        if call is None:
            return b"" if self.is_abandoned else raw
        size = len(raw) - FRAME.size if kind == DATA else 0
        if not call.is_given_up:
            call.received += size
            self._received += size
            return raw
        if size:
            self._replies.append(_widened(0, size) + (b"" if flags & END_STREAM else _widened(number, size)))
        if kind == HEADERS and not flags & END_HEADERS:
            self._dropped = number
        return b""


def _settings(flags: int, raw: bytes) -> bytes:
    """Those of one side for the other."""
    return raw if flags & ACK else frame(SETTINGS, 0, 0, raw[FRAME.size :] + _SETTINGS)


def _widened(stream: int, size: int) -> bytes:
    """Room for `size` more bytes on `stream`."""
    return frame(WINDOW_UPDATE, 0, stream, _INCREMENT.pack(size)) if size > 0 else b""
