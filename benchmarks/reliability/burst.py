"""Thousands of gRPC calls at once, over one connection, at so little cost that their answers' times are the server's.

An event loop with a task for each call takes some 90 µs of processor a call, on the cores that the server shares: half
a second for 5,000, in which answers lie unread. Here all calls are laid out as bytes beforehand, sent as fast as flow
control allows, and what comes back is only stamped; it is read when all is over.
"""

import gc
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tritext.bench.hpack import grpc_status
from tritext.http2 import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MESSAGE,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WIDEST,
    WINDOW,
    WINDOW_UPDATE,
    Frames,
    bare,
    frame,
    literals,
)

_SETTLING: Final = 0.3  # seconds for the server's first words
_AT_ONCE: Final = 1 << 18  # bytes
_NEVER: Final = -1  # as the status of a call without an answer


@dataclass(frozen=True, slots=True)
class Burst:
    """Of each call, [N]: the `seconds` from the first call's first byte to its answer, gRPC's `status`, -1 for none.

    ``sent_seconds``: until the last call's last byte was handed to the kernel; ``cpu_seconds``: of this process.
    """

    seconds: NDArray[np.float64]
    status: NDArray[np.int64]
    sent_seconds: float
    cpu_seconds: float


def burst(address: str, method: str, messages: Sequence[bytes], timeout: float) -> Burst:
    """Call `method` at `address` (host:port) with each of `messages`; `timeout` in seconds, for all of them."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, WIDEST)
        wide = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WIDEST - WINDOW))
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, settings) + wide)
        caller = _Caller(connection, _laid_out(address, method, messages))
        caller.settle()
        return caller.run(timeout)


def _laid_out(authority: str, method: str, messages: Sequence[bytes]) -> list[bytes]:
    """Each call's two frames."""
    block = literals(
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", authority), ("te", "trailers"),
        ("content-type", "application/grpc"),
    )  # fmt: skip
    return [
        frame(HEADERS, END_HEADERS, number, block)
        + frame(DATA, END_STREAM, number, MESSAGE.pack(0, len(message)) + message)
        for number, message in zip(range(1, 2 * len(messages), 2), messages, strict=True)
    ]


class _Caller:
    def __init__(self, connection: socket.socket, calls: list[bytes]) -> None:
        self._connection, self._calls = connection, calls
        self._heads = int.from_bytes(calls[0][:3], "big") + 2 * FRAME.size  # bytes of a call that no window counts
        self._window = WINDOW
        self._frames = Frames()
        self._ends: dict[int, tuple[float, bytes]] = {}  # by stream: when, and the headers that say how
        self._unsent = b""

    def settle(self) -> None:
        """Take the server's settings and windows, as a client has done that did not connect just now."""
        end = time.monotonic() + _SETTLING
        while (left := end - time.monotonic()) > 0:
            if select.select([self._connection], [], [], left)[0]:
                self._take()
        self._send()

    def run(self, timeout: float) -> Burst:
        """Send all, and wait until each has its answer."""
        gc.collect()
        gc.disable()  # a collection among what a long benchmark keeps takes a tenth of a second
        try:
            return self._run(timeout)
        finally:
            gc.enable()

    def _run(self, timeout: float) -> Burst:
        began, cpu = time.monotonic(), time.process_time()
        next_one, sent = 0, 0.0
        while len(self._ends) < len(self._calls) and time.monotonic() - began < timeout:
            while next_one < len(self._calls) and len(self._unsent) < _AT_ONCE:
                size = len(self._calls[next_one]) - self._heads
                if size > self._window:
                    break
                self._window -= size
                self._unsent += self._calls[next_one]
                next_one += 1
            writing = [self._connection] if self._unsent else []
            readable, writable, _ = select.select([self._connection], writing, [], 1.0)
            if writable:
                self._send()
                sent = sent or (time.monotonic() - began if next_one == len(self._calls) and not self._unsent else 0.0)
            if readable:
                self._take()
        cpu = time.process_time() - cpu
        ends = [self._ends.get(number, (began + timeout, b"")) for number in range(1, 2 * len(self._calls), 2)]
        seconds = np.array([when - began for when, _ in ends])
        status = np.array([grpc_status(block) if block else _NEVER for _, block in ends], np.int64)
        return Burst(seconds, status, sent, cpu)

    def _send(self) -> None:
        self._connection.setblocking(False)
        try:
            sent = self._connection.send(self._unsent) if self._unsent else 0
        except BlockingIOError:
            sent = 0
        finally:
            self._connection.setblocking(True)
        self._unsent = self._unsent[sent:]

    def _take(self) -> None:
        data = self._connection.recv(_AT_ONCE)
        if not data:
            raise ConnectionResetError("The server hung up.")
        now = time.monotonic()
        for kind, flags, number, whole in self._frames.read(data):
            if kind == HEADERS and flags & END_STREAM:
                self._ends[number] = now, bare(flags, whole[FRAME.size :])
            elif kind == RST_STREAM:
                self._ends.setdefault(number, (now, b""))
            elif kind == WINDOW_UPDATE and not number:
                self._window += int.from_bytes(whole[FRAME.size :], "big")
            elif kind == SETTINGS and not flags & ACK:
                self._unsent += frame(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                self._unsent += frame(PING, ACK, 0, whole[FRAME.size :])
