"""A call through the fence in front of gRPC: how much of it has come and gone on, and what its messages may be."""

from dataclasses import dataclass
from typing import Final

from tritext.contract import MOST_BYTES
from tritext.http2 import MESSAGE

# Statuses of gRPC, and what to do.
_COMPRESSED: Final = (12, "A compressed message is not taken. Send it as it is.")
_TOO_LARGE: Final = (3, f"The message is larger than {MOST_BYTES >> 20} MiB. Send fewer texts at a time.")


@dataclass(slots=True, eq=False)
class Call:
    """A call, on one stream of its caller's connection and, once it has gone on, on another of Triton's.

    `headers`: for Triton; `room`: bytes that its caller may send; `sent`: those it has; `received`: of its answer, for
    which no room has been made again.
    """

    callers: int
    headers: bytes
    room: int
    is_inference: bool
    is_bare: bool  # nothing but headers
    is_whole: bool = False
    is_inside: bool = False  # let in, and not answered
    is_held: bool = False  # its headers are, until some of its message is here
    tritons: int = 0  # not yet
    number: int = 0  # as well
    model: bytes = b""  # that it asks, where that is known
    last: bytes = b""  # the last part of its message, as long as it waits to be let in
    sent: int = 0
    is_given_up: bool = False
    is_answered: bool = False  # in part: its caller has an answer's first headers
    received: int = 0
    _prefix: bytes = b""  # as much of a message's as has come
    _left: int = 0  # bytes of a message that have not come
    begun: int = 0  # messages

    @property
    def has_message(self) -> bool:
        """Whether all of its message is here: gRPC's server waits for no more."""
        return self.begun > 0 and not self._left and not self._prefix

    def refusal(self, data: bytes) -> tuple[int, str] | None:
        """A status of gRPC's, and a sentence, where its caller begins a message in `data` that is not taken."""
        at = 0
        while at < len(data):
            if self._left:
                size = min(self._left, len(data) - at)
                self._left -= size
                at += size
                continue
            self.begun += not self._prefix
            size = MESSAGE.size - len(self._prefix)
            self._prefix += data[at : at + size]
            at += size
            if len(self._prefix) < MESSAGE.size:
                break
            is_compressed, self._left = MESSAGE.unpack(self._prefix)
            self._prefix = b""
            if is_compressed:
                return _COMPRESSED
            if self._left > MOST_BYTES:
                return _TOO_LARGE
        return None
