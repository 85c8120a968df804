"""What listens in front of Triton: an event loop in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from typing import Final

from tritext.errors import ServeError

BACKLOG: Final = 512  # connections that wait to be accepted
_LOOK: Final = 0.02  # seconds


class Doorway(ABC):
    """Listens at `address`:`port` from `start` to `stop`."""

    _loop: asyncio.AbstractEventLoop  # from `start` on

    def __init__(self, address: str, port: int) -> None:
        self._address, self._port = address, port
        self.is_closing = False
        self._patience = 0.0
        self._cut_off = 0
        self._thread = threading.Thread(target=self._live, name=f"tritext {type(self).__name__}", daemon=True)
        self._opened: Future[None] = Future()
        self._ended = asyncio.Event()

    @abstractmethod
    async def _open(self) -> asyncio.Server:
        """Listen; with BACKLOG once more, or asyncio makes it 100."""

    @property
    @abstractmethod
    def answering(self) -> int:
        """How many requests, or connections with one, have not been answered to the end."""

    @abstractmethod
    async def _let_go(self, deadline: float) -> None:
        """End all connections, until that time of the loop's with what has been answered."""

    def _socket(self) -> socket.socket:
        """One that listens; on all addresses, of both kinds, where the address is `::`."""
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        both = self._address == "::" and socket.has_dualstack_ipv6()
        bound = socket.create_server((self._address, self._port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
        # What is accepted inherits this: asyncio sets it only where a socket says that its protocol is TCP, and these
        # say 0. Else an answer waits until the caller has confirmed the one before, which takes up to 40 ms.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return bound

    def start(self) -> None:
        """Listen; ServeError where the port was taken meanwhile."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        try:
            self._opened.result()
        except OSError as error:
            self._thread.join()
            raise ServeError(f"Port {self._port} on {self._address} cannot be opened: {error.strerror}.") from error

    def stop(self, patience: float = 0.0) -> bool:
        """Take no more connections; whether requests under way were answered within `patience` seconds.

        All connections are let go in any case. Does no harm twice.
        """
        self._patience = patience
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(timeout=patience + 5)
        return self._cut_off == 0 and not self._thread.is_alive()

    def _live(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        try:
            server = await self._open()
        except OSError as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        await self._ended.wait()
        self.is_closing = True
        server.close()
        deadline = self._loop.time() + self._patience
        while self.answering and self._loop.time() < deadline:
            await asyncio.sleep(_LOOK)
        self._cut_off = self.answering
        await self._let_go(deadline)
