"""What stands between callers and Triton's gRPC server, which loses answers where a call is given up.

Triton 2.51 may lose others' answers, or crash, where a call ends while it works on it (its issue 7368): reset by its
caller, overdue, or because the connection breaks. So it never learns of that. Each caller's connection has one of its
own to Triton, and frames go through if they are sound, but for these:

- A reset stays here. The request is ended where it was not yet whole, and the answer is taken in the caller's place.
- Deadlines (`grpc-timeout`) are taken out: gRPC would end the call by itself. A caller resets it at its deadline.
- When a caller hangs up, or sends what is not sound, the connection to Triton stays until all is answered.
- Either side's pings are answered here: Triton ends a connection with too many of them.

Work that nobody waits for is not begun all the same: the steps look into a table of such calls (`tritext.calls`). Work
that there is no time for does not come so far: `tritext.serve.shedding`.
Both sides are told not to remember headers, so that those of one call can be changed, or left out, by themselves.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Final, cast

from tritext.calls import Calls
from tritext.http2 import Malformed
from tritext.serve.doorway import BACKLOG, Doorway
from tritext.serve.endpoints import LOOPBACK
from tritext.serve.grpc_relay import AHEAD, Relay
from tritext.serve.shedding import Shedder

MAX_CONNECTIONS: Final = 2000
_HANDSHAKE: Final = 10.0  # seconds
_FAREWELL: Final = 30.0
_PAUSE: Final = 0.02
# Seconds, and probes, after which a caller is known to have vanished that said nothing of it.
_ALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
_MOST_KEPT: Final = 2 * AHEAD  # bytes for Triton, before nothing more is read from a caller
_MOST_UNSENT: Final = 8 << 20  # bytes to a caller who reads nothing and asks on


class GrpcFence(Doorway):
    """Listens at `address`:`port` and passes calls on to the gRPC server of Triton's at 127.0.0.1:`inner`.

    Calls get their numbers from `numbers`. What the steps should know of them is noted in `table`; `shedder` says which
    may go on, and when. Callers are met with TLS where there is a `context`.
    """

    def __init__(
        self,
        address: str,
        port: int,
        inner: int,
        numbers: Iterator[int],
        table: Calls,
        shedder: Shedder,
        context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(address, port)
        self.inner = inner
        self.tunnels: set[_Tunnel] = set()
        self._context = context
        self._numbers, self._table, self._shedder = numbers, table, shedder

    @property
    def answering(self) -> int:
        """Connections whose caller waits for an answer, or has not read it."""
        return sum([tunnel.is_answering for tunnel in self.tunnels])

    @property
    def callers(self) -> int:
        """How many are connected."""
        return sum([tunnel.caller.is_open for tunnel in self.tunnels])

    async def _open(self) -> asyncio.Server:
        timeout = None if self._context is None else _HANDSHAKE
        return await self._loop.create_server(
            self._accept, sock=self._socket(), ssl=self._context, ssl_handshake_timeout=timeout, backlog=BACKLOG
        )

    async def _let_go(self, deadline: float) -> None:
        tunnels = list(self.tunnels)
        for tunnel in tunnels:
            tunnel.close()
        deadline = max(deadline, self._loop.time() + _PAUSE)
        while any(tunnel.caller.is_open for tunnel in tunnels) and self._loop.time() < deadline:
            await asyncio.sleep(_PAUSE)
        for tunnel in tunnels:
            tunnel.abort()
        await asyncio.sleep(_PAUSE)

    def _accept(self) -> "_End":
        return _Tunnel(self, self._numbers, self._table, self._shedder).caller


class _Tunnel:
    """A caller's connection and one to Triton."""

    def __init__(self, fence: GrpcFence, numbers: Iterator[int], table: Calls, shedder: Shedder) -> None:
        self._fence = fence
        self.relay = Relay(numbers, table, shedder, self._say_soon)
        self.caller = _End(self._caller_is_here, self._from_caller, self._caller_has_gone)
        self._triton = _End(self._triton_is_here, self._from_triton, self.close)
        self.caller.other, self._triton.other = self._triton, self.caller
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_answering(self) -> bool:
        """Whether its caller waits for an answer, or has not read it."""
        return self.relay.waiting > 0 or self.caller.unsent > 0

    def close(self) -> None:
        """Let go of both, when they have what is theirs."""
        self._fence.tunnels.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        self.caller.close()
        self._triton.close()
        self.relay.lose()

    def abort(self) -> None:
        """Let go of both now."""
        self.caller.abort()
        self._triton.abort()

    def _caller_is_here(self) -> None:
        if self._fence.callers >= MAX_CONNECTIONS or self._fence.is_closing:
            self.close()
            return
        self._fence.tunnels.add(self)
        self.caller.watch()
        self.caller.pause_reading()
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self._triton, LOOPBACK, self._fence.inner)
        except OSError:  # Triton is not there: whoever asks finds the connection closed, and tries again
            self.close()

    def _triton_is_here(self) -> None:
        if self in self._fence.tunnels:
            self._triton.keep(_MOST_KEPT)
            self.caller.resume_reading()
        else:
            self.close()

    def _from_caller(self, data: bytes) -> None:
        try:
            self.relay.from_caller(data)
        except Malformed:
            self._caller_has_gone()
        else:
            self._say()

    def _from_triton(self, data: bytes) -> None:
        try:
            self.relay.from_triton(data)
        except Malformed:
            self.close()
        else:
            self._say()

    def _caller_has_gone(self) -> None:
        """Take Triton's answers in its place."""
        if not self.relay.is_abandoned:
            self.relay.abandon()
            self._say()
            self._triton.resume_reading()

    def _say_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._say)

    def _say(self) -> None:
        """Pass on what there is; let go of whom nothing more is to be said to."""
        to_caller, to_triton = self.relay.said()
        self.caller.write(to_caller)
        self._triton.write(to_triton)
        if self.relay.is_abandoned:
            self.caller.abort()
            if self.relay.is_done:
                self.close()
        elif self.caller.unsent > _MOST_UNSENT:
            self._caller_has_gone()


class _End(asyncio.Protocol):
    """A connection; where it cannot be written to, nothing is read from the `other`."""

    other: "_End"

    def __init__(self, made: Callable[[], None], received: Callable[[bytes], None], lost: Callable[[], None]) -> None:
        self._made, self._received, self._lost = made, received, lost
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] | None = []  # None once it is there

    @property
    def is_open(self) -> bool:
        """Whether it is there."""
        return self._transport is not None

    @property
    def connection(self) -> socket.socket | None:
        """Of the connection, while it is there."""
        return None if self._transport is None else self._transport.get_extra_info("socket")

    def watch(self) -> None:
        """Have the kernel ask whether the other end is still there."""
        if (connection := self.connection) is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _ALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def keep(self, size: int) -> None:
        """Let so many bytes wait to be sent before `pause_writing`."""
        if self._transport is not None:
            self._transport.set_write_buffer_limits(size)

    @property
    def unsent(self) -> int:
        """Bytes that wait to be taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._made()
        early, self._early = self._early or [], None
        self.write(b"".join(early))

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        del exc
        self._transport = None
        self._lost()

    def pause_writing(self) -> None:
        """It takes no more for now."""
        self.other.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self.other.resume_reading()

    def pause_reading(self) -> None:
        """Take nothing for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if self._transport is not None:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send it, once it is there and while it is."""
        if self._early is not None:
            self._early.append(data)
        elif data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """When all is sent, or when that takes too long."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()
            asyncio.get_running_loop().call_later(_FAREWELL, self._transport.abort)

    def abort(self) -> None:
        """Now."""
        if self._transport is not None:
            self._transport.abort()
