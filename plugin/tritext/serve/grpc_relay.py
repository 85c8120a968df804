"""What of the frames between a gRPC caller and Triton goes on, and what is said instead (RFC 9113)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hpack import HPACKError

from tritext.contract import MOST_BYTES
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
    MESSAGE,
    PADDED,
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
# Statuses of gRPC, and what to do.
_COMPRESSED: Final = (12, "A compressed message is not taken. Send it as it is.")
_TOO_LARGE: Final = (3, f"The message is larger than {MOST_BYTES >> 20} MiB. Send fewer texts at a time.")
_INCREMENT: Final = struct.Struct(">I")


@dataclass(slots=True, eq=False)
class _Call:
    """`received`: bytes of its answer for which its caller has not made room again."""

    number: int
    is_whole: bool
    is_given_up: bool = False
    received: int = 0
    _prefix: bytes = b""  # as much of a message's as has come
    _left: int = 0  # bytes of a message that have not come

    def refusal(self, data: bytes) -> tuple[int, str] | None:
        """A status of gRPC's, and a sentence, where its caller begins a message in `data` that is not taken."""
        while data:
            if self._left:
                size = min(self._left, len(data))
                self._left -= size
                data = data[size:]
                continue
            size = MESSAGE.size - len(self._prefix)
            self._prefix += data[:size]
            data = data[size:]
            if len(self._prefix) < MESSAGE.size:
                break
            is_compressed, self._left = MESSAGE.unpack(self._prefix)
            self._prefix = b""
            if is_compressed:
                return _COMPRESSED
            if self._left > MOST_BYTES:
                return _TOO_LARGE
        return None


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
        self._to_caller: list[bytes] = []  # what is said besides
        self._to_triton: list[bytes] = []
        self._refused: set[int] = set()  # streams whose caller has not ended them
        self.is_abandoned = False

    @property
    def waiting(self) -> int:
        """Calls whose answer somebody waits for."""
        return 0 if self.is_abandoned else sum(not call.is_given_up for call in self._calls.values())

    @property
    def is_done(self) -> bool:
        """Whether Triton has answered everything."""
        return not self._calls

    def from_caller(self, data: bytes) -> tuple[bytes, bytes]:
        """What goes to the caller and to Triton when `data` arrives; http2.Malformed where it is no HTTP/2."""
        if len(self._preface) < len(PREFACE):
            rest = len(PREFACE) - len(self._preface)
            self._preface += data[:rest]
            if not PREFACE.startswith(self._preface):
                raise Malformed
            self._to_triton.append(data[:rest])
            data = data[rest:]
        self._to_triton += [self._of_caller(*one) for one in self._frames_of_caller.read(data)]
        return self._said()

    def from_triton(self, data: bytes) -> tuple[bytes, bytes]:
        """The same for what Triton sends."""
        self._to_caller += [self._of_triton(*one) for one in self._frames_of_triton.read(data)]
        return self._said()

    def _said(self) -> tuple[bytes, bytes]:
        said = b"".join(self._to_caller), b"".join(self._to_triton)
        self._to_caller.clear()
        self._to_triton.clear()
        return said

    def abandon(self) -> bytes:
        """The caller has hung up: what goes to Triton."""
        self.is_abandoned = True
        said = [self._give_up(number, call) for number, call in self._calls.items()]
        return b"".join((*said, _widened(0, self._received)))

    def _of_caller(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        if self._block_of and (kind, number) != (CONTINUATION, self._block_of):
            raise Malformed
        if kind == DATA:
            return self._asked(flags, number, raw)
        if kind in {HEADERS, CONTINUATION}:
            return self._headers_of_caller(kind, flags, number, raw)
        if kind == RST_STREAM:
            self._refused.discard(number)
            call = self._calls.get(number)
            return self._give_up(number, call) if call else raw
        if kind == WINDOW_UPDATE:
            return self._widened_by_caller(number, raw)
        return _settings(flags, raw) if kind == SETTINGS else raw if kind == PING else b""

    def _asked(self, flags: int, number: int, raw: bytes) -> bytes:
        """A part of a call's messages."""
        if number in self._refused:
            self._to_caller.append(_widened(0, len(raw) - FRAME.size))
            if flags & END_STREAM:
                self._refused.discard(number)
            return b""
        call = self._calls.get(number)
        if call is None:
            return raw  # Triton has answered already
        if refusal := call.refusal(bare(flags & PADDED, raw[FRAME.size :])):
            self._to_caller.append(_widened(0, len(raw) - FRAME.size) + _refused(number, *refusal))
            if not flags & END_STREAM:
                self._refused.add(number)
            return self._give_up(number, call)
        call.is_whole = bool(flags & END_STREAM)
        return raw

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
                self._to_triton.append(frame(kind, ACK, 0, raw[FRAME.size :] if kind == PING else b""))
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
            self._to_triton.append(_widened(0, size) + (b"" if flags & END_STREAM else _widened(number, size)))
        if kind == HEADERS and not flags & END_HEADERS:
            self._dropped = number
        return b""


def _refused(stream: int, status: int, sentence: str) -> bytes:
    """The answer to a call, before it is complete, and that the rest of it is not wanted."""
    headers = literals(
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", str(status)),
        ("grpc-message", sentence),
    )
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, headers) + frame(RST_STREAM, 0, stream, bytes(4))


def _settings(flags: int, raw: bytes) -> bytes:
    """Those of one side for the other."""
    return raw if flags & ACK else frame(SETTINGS, 0, 0, raw[FRAME.size :] + _SETTINGS)


def _widened(stream: int, size: int) -> bytes:
    """Room for `size` more bytes on `stream`."""
    return frame(WINDOW_UPDATE, 0, stream, _INCREMENT.pack(size)) if size > 0 else b""
