"""What of the frames between a gRPC caller and Triton goes on, and what is said instead (RFC 9113)."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from tritext.calls import Calls
from tritext.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FRAME,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_FRAME,
    MAX_FRAME_SIZE,
    PADDED,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WIDEST,
    WINDOW,
    WINDOW_UPDATE,
    Frames,
    Malformed,
    bare,
    frame,
    literals,
)
from tritext.serve.grpc_call import Call
from tritext.serve.grpc_frames import ended, numbered, opened, parted, refused, settings, settled, widened
from tritext.serve.grpc_headers import MOST_HEADERS, Headers
from tritext.serve.shedding import Shedder

_MOST_SETTINGS: Final = 1 << 10  # bytes of a frame's
_MOST_UNANSWERED: Final = 100  # frames of settings
AHEAD: Final = 1 << 20  # bytes that a caller may send before Triton takes them
_MOST_HELD: Final = 8_192  # calls of which nothing but headers has come
_MOST_HELD_BYTES: Final = 4 << 20  # of their headers
_INFER: Final = b"/inference.GRPCInferenceService/ModelInfer"
_INFER_STREAM: Final = b"/inference.GRPCInferenceService/ModelStreamInfer"
_MODEL: Final = re.compile(rb"[\x00-\xff]{5}\x0a([\x01-\x7f])")  # how such a call's message begins, and a name's length
# Statuses of gRPC, and what to do.
_NO_STREAMS: Final = (12, "Inferences are not taken in streams. Ask with ModelInfer.")
_OVERLOADED: Final = 14
# The least and the most that a setting may be; of the others, anything. With no room for an answer a call that is given
# up would never end.
_RANGES: Final = {
    ENABLE_PUSH: (0, 1),
    INITIAL_WINDOW_SIZE: (LARGEST_FRAME, WIDEST),
    MAX_FRAME_SIZE: (LARGEST_FRAME, 2**24 - 1),
}

# How long a frame is, where that is fixed.
_SIZES: Final = {RST_STREAM: 4, WINDOW_UPDATE: 4, PING: 8}


class Relay:
    """One caller's connection, and the one to Triton that carries its calls.

    `numbers` gives each call one of its own; what is given up is noted in `table`; `shedder` refuses calls. Triton does
    not hear of those, so streams have other numbers there; and a caller may send more than Triton takes at the moment,
    so that it hears of refusals soon. Whatever the caller sends, Triton gets what is sound: it would end a connection
    otherwise, and with it calls that it works on. `wake` is called when there is something to say though nothing came.
    """

    def __init__(
        self, numbers: Iterator[int], table: Calls, shedder: Shedder, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._numbers, self._table, self._shedder, self._wake = numbers, table, shedder, wake
        self._headers = Headers(table.header)
        self._calls: dict[int, Call] = {}  # that are not answered, by their callers' streams
        self._gone_on: dict[int, Call] = {}  # those of them that Triton knows, by its streams
        self._last, self._next = 0, 1  # stream, of the caller and for Triton
        self._preface = b""
        self._frames_of_caller, self._frames_of_triton = Frames(), Frames()
        self._block, self._block_of, self._block_flags = b"", 0, 0  # the caller's headers, while they come in parts
        self._goes_on_at = 0  # the caller's stream that the rest of an answer's headers is for; 0: nobody's
        self._room, self._received = WINDOW + AHEAD, 0  # as of a call, of all of them
        self._tritons_room = WINDOW
        self._ahead = widened(0, AHEAD)  # what is said of it, behind Triton's first settings
        self._kept: deque[bytes] = deque()  # parts of messages that Triton has no room for
        self._calls_room, self._answers_room = WINDOW, WINDOW  # that each begins with
        self._unanswered_of_caller, self._unanswered_of_triton = 0, 0  # settings
        self._to_caller: list[bytes] = []
        self._to_triton: list[bytes] = []
        self._held = 0  # bytes of headers
        self._is_reading = False
        self.is_abandoned = False

    @property
    def waiting(self) -> int:
        """Calls whose answer somebody waits for."""
        if self.is_abandoned:
            return 0
        return sum([call.is_whole and not call.is_given_up for call in self._calls.values()])

    @property
    def is_done(self) -> bool:
        """Whether Triton has answered everything."""
        return not self._calls

    def said(self) -> tuple[bytes, bytes]:
        """What goes to the caller and to Triton by now."""
        said = b"".join(self._to_caller), b"".join(self._to_triton)
        self._to_caller.clear()
        self._to_triton.clear()
        return said

    def from_caller(self, data: bytes) -> None:
        """`data` arrived; http2.Malformed where that is no sound HTTP/2, and the caller is to be hung up on."""
        if len(self._preface) < len(PREFACE):
            rest = len(PREFACE) - len(self._preface)
            self._preface += data[:rest]
            if not PREFACE.startswith(self._preface):
                raise Malformed
            self._to_triton.append(data[:rest])
            data = data[rest:]
        self._is_reading = True
        try:
            for one in self._frames_of_caller.read(data):
                self._to_triton.append(self._of_caller(*one))
        finally:
            self._is_reading = False

    def from_triton(self, data: bytes) -> None:
        """`data` arrived."""
        for one in self._frames_of_triton.read(data):
            self._to_caller.append(self._of_triton(*one))

    def abandon(self) -> None:
        """The caller has hung up."""
        self.is_abandoned = True
        self._to_triton += [self._give_up(call) for call in list(self._calls.values())]
        self._to_triton += [widened(0, self._received), frame(SETTINGS, ACK, 0, b"") * self._unanswered_of_triton]

    def lose(self) -> None:
        """Triton has hung up."""
        for call in list(self._calls.values()):
            self._end(call)

    def _end(self, call: Call) -> None:
        """There is nothing more to come of it."""
        del self._calls[call.callers]
        self._gone_on.pop(call.tritons, None)
        self._drop(call)
        self._let_go(call)
        self._leave(call)

    def _leave(self, call: Call) -> None:
        if call.is_inside:
            call.is_inside = False
            self._shedder.answered(call.number)

    def _let_go(self, call: Call) -> None:
        if call.is_held:
            call.is_held = False
            self._held -= len(call.headers)

    def _drop(self, call: Call) -> None:
        """What has waited to be let in never will be: its caller may send as much of something else."""
        if call.last:
            size = len(call.last) - FRAME.size
            call.last = b""
            self._room += size
            self._to_caller.append(widened(0, size))

    def _of_caller(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        """What goes to Triton in the place of one frame."""
        size = len(raw) - FRAME.size
        if self._block_of and (kind, number) != (CONTINUATION, self._block_of):
            raise Malformed
        if size != _SIZES.get(kind, size):
            raise Malformed
        if kind == DATA:
            return self._asked(flags, number, raw)
        if kind in {HEADERS, CONTINUATION}:
            return self._headers_of_caller(kind, flags, number, raw)
        if kind == WINDOW_UPDATE:
            return self._widened_by_caller(number, raw)
        if kind == RST_STREAM:
            return self._reset(number)
        if kind == SETTINGS:
            return self._settings_of_caller(flags, raw)
        if kind == PING and not flags & ACK:
            self._to_caller.append(frame(PING, ACK, 0, raw[FRAME.size :]))
        return b""

    def _asked(self, flags: int, number: int, raw: bytes) -> bytes:
        """A part of a call's messages."""
        self._check_begun(number)
        size = len(raw) - FRAME.size
        call = self._calls.get(number)
        if call is None or call.is_given_up:  # it has its answer already
            self._to_caller.append(widened(0, size))
            return b""
        self._room -= size
        call.room -= size
        call.sent += size
        if call.is_whole or self._room < 0 or call.room < 0 or flags & PADDED:  # gRPC's server takes no padding
            raise Malformed
        payload, end, had_message = raw[FRAME.size :], flags & END_STREAM, call.has_message
        if refusal := call.refusal(payload) or self._shed(call, payload):
            self._room += size
            self._to_caller.append(
                widened(0, size) + ended(call.callers, *refusal, is_first=not call.is_answered, is_whole=bool(end))
            )
            return self._give_up(call)
        if call.is_inference and call.begun > 1:  # one is all that it may send
            raise Malformed
        if call.is_inference and not had_message and (end or call.has_message):
            call.is_whole, call.last = bool(end), raw
            self._shedder.enter(call.model, call.sent, partial(self._enter, call))
            return b""
        if not size and not end:
            return b""
        if call.last:  # it ends while it waits
            call.is_whole, call.last = True, numbered(call.last, number, END_STREAM)
            return b""
        gone_on = b"" if call.tritons else self._go_on(call)
        call.is_whole = bool(end)
        return gone_on + self._taken(numbered(raw, call.tritons, end))

    def _enter(self, call: Call) -> int:
        """An inference is let in, if somebody waits for it: its number."""
        raw, call.last = call.last, b""
        if not raw:
            return 0
        gone_on = b"" if call.tritons else self._go_on(call)
        self._to_triton.append(gone_on + self._taken(numbered(raw, call.tritons, raw[4] & END_STREAM)))
        call.is_inside = True
        if not self._is_reading:
            self._wake()
        return call.number

    def _taken(self, part: bytes) -> bytes:
        """That part of a message, if Triton has room for it, and for those before it."""
        size = len(part) - FRAME.size
        if self._kept or size > self._tritons_room:
            self._kept.append(part)
            return b""
        self._tritons_room -= size
        return part

    def _shed(self, call: Call, payload: bytes) -> tuple[int, str] | None:
        """A status of gRPC's, and a sentence, where the model that an inference asks has too much to do.

        Where its message does not begin with the model's name, it goes on.
        """
        if call.tritons or call.sent > len(payload) or not (found := _MODEL.match(payload)):
            return None
        end = found.end() + found[1][0]
        call.model = payload[found.end() : end]
        overload = self._shedder.refusal(call.model)
        return (_OVERLOADED, str(overload)) if overload else None

    def _check_begun(self, number: int) -> None:
        if not number % 2 or number > self._last:
            raise Malformed

    def _headers_of_caller(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        """Nothing before they are complete."""
        if kind == CONTINUATION:
            if not self._block_of:
                raise Malformed
            self._block += raw[FRAME.size :]
        else:
            if not number % 2 or number <= self._last:
                raise Malformed
            self._last = number
            self._block, self._block_of, self._block_flags = bare(flags, raw[FRAME.size :]), number, flags
        if len(self._block) > MOST_HEADERS:
            raise Malformed
        return self._opened() if flags & END_HEADERS else b""

    def _opened(self) -> bytes:
        """A call begins, with the headers that have come."""
        stream, block, end = self._block_of, self._block, self._block_flags & END_STREAM
        self._block, self._block_of = b"", 0
        passed = self._headers.passed_on(block)
        if passed.path == _INFER_STREAM:
            self._to_caller.append(ended(stream, *_NO_STREAMS, is_first=True, is_whole=bool(end)))
            return b""
        is_inference = passed.path == _INFER
        call = Call(stream, passed.block, self._calls_room, is_inference, is_bare=bool(end))
        call.is_whole = call.is_bare
        self._calls[stream] = call
        is_held = is_inference and not end and len(self._calls) - len(self._gone_on) <= _MOST_HELD
        if not is_held or self._held + len(call.headers) > _MOST_HELD_BYTES:
            return self._go_on(call)
        self._held += len(call.headers)
        call.is_held = True
        return b""

    def _go_on(self, call: Call) -> bytes:
        """A call's headers, for Triton, and room for its answer."""
        self._let_go(call)
        call.tritons, self._next = self._next, self._next + 2
        call.number = next(self._numbers)
        self._gone_on[call.tritons] = call
        block = call.headers + literals((self._table.header, str(call.number)))
        call.headers = b""
        return opened(call.tritons, block, is_whole=call.is_bare) + widened(call.tritons, -call.received)

    def _reset(self, number: int) -> bytes:
        self._check_begun(number)
        call = self._calls.get(number)
        return self._give_up(call) if call else b""

    def _give_up(self, call: Call) -> bytes:
        """Nobody waits for that call any more: it is ended as if all had been sent, and room made for its answer."""
        if not call.tritons:
            self._end(call)
            return b""
        if call.is_given_up:
            return b""
        call.is_given_up = True
        self._table.give_up(call.number)
        has_ended = call.is_whole and not call.last
        self._drop(call)
        end = b"" if has_ended else self._taken(frame(DATA, END_STREAM, call.tritons, b""))
        return end + widened(call.tritons, call.received)

    def _widened_by_caller(self, number: int, raw: bytes) -> bytes:
        """Room for more of an answer, or of all: never more than there can be."""
        more = int.from_bytes(raw[FRAME.size :], "big") & WIDEST
        if not more:
            raise Malformed
        if not number:
            self._received -= more
            if WINDOW - self._received > WIDEST:
                raise Malformed
            return widened(0, more)
        self._check_begun(number)
        call = self._calls.get(number)
        if call is None or call.is_given_up:
            return b""
        call.received -= more
        if self._answers_room - call.received > WIDEST:
            raise Malformed
        return widened(call.tritons, more) if call.tritons else b""

    def _settings_of_caller(self, flags: int, raw: bytes) -> bytes:
        """With ours as the last word; Malformed where Triton would not take them."""
        payload = raw[FRAME.size :]
        if flags & ACK:
            self._unanswered_of_triton -= 1
            if payload or self._unanswered_of_triton < 0:
                raise Malformed
            return frame(SETTINGS, ACK, 0, b"")
        self._unanswered_of_caller += 1
        if self._unanswered_of_caller > _MOST_UNANSWERED or len(payload) > _MOST_SETTINGS:
            raise Malformed
        for name, value in settings(payload):
            least, most = _RANGES.get(name, (0, value))
            if not least <= value <= most:
                raise Malformed
            if name == INITIAL_WINDOW_SIZE:
                self._answers_room = value
                if any(value - call.received > WIDEST for call in self._calls.values()):
                    raise Malformed
        return settled(payload)

    def _of_triton(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        """What goes to the caller in the place of one frame."""
        if kind == PING:
            if not flags & ACK:
                self._to_triton.append(frame(PING, ACK, 0, raw[FRAME.size :]))
            return b""
        if kind == SETTINGS:
            return self._settings_of_triton(flags, raw)
        if kind == WINDOW_UPDATE:
            return self._widened_by_triton(number, raw)
        if kind == GOAWAY:
            return self._parted(raw)
        return self._answered(kind, flags, number, raw) if number else raw

    def _parted(self, raw: bytes) -> bytes:
        """Triton takes no calls behind the last one that it names: they may be asked again elsewhere."""
        if len(raw) < FRAME.size + 8:
            raise Malformed
        last = int.from_bytes(raw[FRAME.size : FRAME.size + 4], "big") & WIDEST
        if last == WIDEST:  # it only says that it will
            return raw
        late = [call for call in self._calls.values() if not 0 < call.tritons <= last]
        for call in late:
            self._end(call)
        resets = [refused(call.callers) for call in late if not call.is_given_up]
        return b"".join([*resets, parted(raw, self._last)])

    def _settings_of_triton(self, flags: int, raw: bytes) -> bytes:
        if flags & ACK:
            self._unanswered_of_caller -= 1
            return raw
        ahead, self._ahead = self._ahead, b""
        if self.is_abandoned:
            self._to_triton.append(frame(SETTINGS, ACK, 0, b""))
            return b""
        payload = raw[FRAME.size :]
        for name, value in settings(payload):
            # Less room holds only from the time when the caller has heard of it.
            if name == INITIAL_WINDOW_SIZE and value > self._calls_room:
                for call in self._calls.values():
                    call.room += value - self._calls_room
                self._calls_room = value
        self._unanswered_of_triton += 1
        return settled(payload) + ahead

    def _widened_by_triton(self, number: int, raw: bytes) -> bytes:
        more = int.from_bytes(raw[FRAME.size :], "big") & WIDEST
        if not number:
            self._room += more
            self._tritons_room += more
            self._send_kept()
            return raw
        if call := self._gone_on.get(number):
            call.room += more
            return b"" if call.is_given_up else numbered(raw, call.callers, 0)
        return b""

    def _send_kept(self) -> None:
        """What Triton has room for now."""
        while self._kept and (size := len(self._kept[0]) - FRAME.size) <= self._tritons_room:
            self._tritons_room -= size
            self._to_triton.append(self._kept.popleft())

    def _answered(self, kind: int, flags: int, number: int, raw: bytes) -> bytes:
        """A frame of an answer."""
        if kind == CONTINUATION:
            stream = self._goes_on_at
            return numbered(raw, stream, flags) if stream else b""
        self._goes_on_at = 0
        call = self._gone_on.get(number)
        if call is None:
            return b""
        if kind == RST_STREAM or (kind in {HEADERS, DATA} and flags & END_STREAM):
            self._end(call)
        size = len(raw) - FRAME.size if kind == DATA else 0
        if not call.is_given_up:
            self._received += size
            call.received += size
            call.is_answered = True
            self._leave(call)
            self._goes_on_at = call.callers
            return numbered(raw, call.callers, flags)
        if size:
            self._to_triton.append(widened(0, size) + (b"" if flags & END_STREAM else widened(number, size)))
        return b""
