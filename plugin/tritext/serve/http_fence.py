"""What stands between the HTTP port and Triton's HTTP server, whose parser a single request can kill.

Triton 2.51 dies of JSON nested 100,000 deep and of a body sent in a million chunks (it keeps both on the stack),
unpacks a compressed megabyte into gigabytes, and takes a body of any size. Here a request must be whole and within
bounds before any of it reaches Triton, which then gets a body of a stated length in one piece. Framing
follows RFC 9112; what it leaves open is refused, so that two parsers cannot differ.
"""

import asyncio
import contextlib
import json
import re
import urllib.parse
from collections.abc import Iterator
from typing import Final

from tritext import contract
from tritext.serve.doorway import BACKLOG, Doorway
from tritext.serve.http_request import Head, Refused, check_body
from tritext.serve.http_response import STALLED, Relay, drained
from tritext.serve.shedding import Shedder

MAX_HEAD: Final = 64 << 10  # bytes of the request line and all header fields
MAX_BODY: Final = contract.MOST_BYTES  # of a request's body
MAX_HELD: Final = 256 << 20  # bytes of all bodies that are held at a time
MAX_CHUNKS: Final = 1 << 14  # of a body that comes in chunks
MAX_CONNECTIONS: Final = 2000
IDLE: Final = 120.0  # seconds between two requests
_PIECE: Final = 1 << 16

_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"content-length", b"expect"}
)
# /generate passes no headers on (2.51): the first step cannot tell that it has judged such a call.
_INFERENCE: Final = re.compile(rb"/v2/models/(?P<model>[^/?]+)(?:/versions/[^/?]+)?/(?P<way>infer|generate)")
# Only there it counts how much of a body is JSON: elsewhere Triton parses all of it whatever this header says.
_JSON_LENGTH: Final = b"inference-header-content-length"
_WITH_LENGTH: Final = re.compile(rb"/v2/models/[^/?]+(?:/versions/[0-9]+)?/infer")


class HttpFence(Doorway):
    """Listens at `address`:`port` and passes what is sound on to an HTTP server of Triton's at 127.0.0.1:`inner`.

    Inferences get their numbers from `numbers`; `shedder` says which may go on, and when.
    """

    def __init__(
        self,
        address: str,
        port: int,
        inner: int,
        numbers: Iterator[int],
        shedder: Shedder,
        max_body: int = MAX_BODY,
    ) -> None:
        super().__init__(address, port)
        self.max_body = max_body
        self.numbers, self.shedder = numbers, shedder
        self._inner = inner
        self._connections, self._held = 0, 0
        self.busy = 0  # connections with a request under way
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def answering(self) -> int:
        """Connections with a request under way."""
        return self.busy

    async def _open(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, sock=self._socket(), limit=MAX_HEAD, backlog=BACKLOG)

    async def _let_go(self, deadline: float) -> None:
        del deadline  # all that was answered is sent already
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio runs this as a task
        self._tasks.add(task)
        self._connections += 1
        writer.transport.set_write_buffer_limits(0)  # what has been answered has been sent
        try:
            await _Connection(self, reader, writer).run(self._inner)
        except Refused as refused:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                await _refuse(reader, writer, refused)
        except TimeoutError:  # it asks no more, or does not read its answer
            writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # whoever asked, or Triton, has gone
        finally:
            self._connections -= 1
            self._tasks.discard(task)
            writer.close()

    def check_room(self) -> None:
        """Refused where there are too many connections."""
        if self._connections > MAX_CONNECTIONS:
            raise Refused("503 Service Unavailable", "The server has too many connections. Try again later.")

    def hold(self, size: int) -> None:
        """Account for `size` more bytes of bodies; refused where they are too many."""
        if self._held + size > MAX_HELD:
            raise Refused("503 Service Unavailable", "The server holds too many large requests. Try again soon.")
        self._held += size

    def release(self, size: int) -> None:
        """They are gone."""
        self._held -= size


class _Shed(Exception):
    """A request that is refused for overload, on a connection that goes on."""


class _Connection:
    """One caller's requests, in order, over one connection of its own to Triton."""

    def __init__(self, fence: HttpFence, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._fence, self._reader, self._writer = fence, reader, writer
        self._held = 0
        self._call = 0  # that was let in, and of which Triton has not begun to answer

    async def run(self, inner: int) -> None:
        """Until the caller has no more to ask."""
        self._fence.check_room()
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            while not self._fence.is_closing and (head := await self._head()) is not None:
                self._fence.busy += 1
                try:
                    body = await self._sound_body(head)
                    if head.method == b"POST" and (asked := _INFERENCE.match(head.target)):
                        self._call = await self._enter(asked["model"], len(body), is_told=asked["way"] == b"infer")
                    if upstream is None or upstream[0].at_eof():
                        upstream = await self._connect(inner)
                    upstream[1].write(_forwarded(head, len(body), self._call, self._fence.shedder.header))
                    upstream[1].write(body)
                    await upstream[1].drain()
                    del body
                    self._let_go()  # its answer may take as long as its caller likes
                    answer = Relay(upstream[0], self._writer, head.method, head.minor, self._answered)
                    again = await answer.run()
                except _Shed as shed:
                    self._writer.write(_error("503 Service Unavailable", str(shed)))
                    await drained(self._writer)
                    again = True
                finally:
                    self._fence.busy -= 1
                    self._let_go()
                    self._answered()
                if not (again and head.goes_on):
                    return
        finally:
            if upstream is not None:
                upstream[1].close()

    def _answered(self) -> None:
        """Triton has done its work for the call."""
        if self._call:
            self._fence.shedder.answered(self._call)
            self._call = 0

    async def _sound_body(self, head: Head) -> bytes:
        """All of it, once Triton can stand it."""
        body = await self._body(head)
        json_length = head.get(_JSON_LENGTH)
        if len(body) > _PIECE:  # beside others
            await asyncio.to_thread(check_body, body, json_length)
        else:
            check_body(body, json_length)
        return body

    async def _enter(self, model: bytes, size: int, *, is_told: bool) -> int:
        """Wait until a call may go on, as `Shedder.enter` says, for its number; _Shed where there is no time for it."""
        model = urllib.parse.unquote_to_bytes(model)
        if overload := self._fence.shedder.refusal(model):
            raise _Shed(str(overload))
        number: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def go() -> int:
            if number.done():  # whoever asked has gone
                return 0
            number.set_result(next(self._fence.numbers))
            return number.result()

        self._fence.shedder.enter(model, size, go, is_told=is_told)
        try:
            return await number
        except asyncio.CancelledError:
            if not number.cancelled():  # let in at the same moment
                self._fence.shedder.answered(number.result())
            raise

    async def _connect(self, inner: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_connection("127.0.0.1", inner, limit=MAX_HEAD)
        except OSError as error:
            raise Refused("503 Service Unavailable", "The server is not ready. Try again in a second.") from error

    async def _head(self) -> Head | None:
        try:
            async with asyncio.timeout(IDLE):
                head = Head.read(await self._reader.readuntil(b"\r\n\r\n"))
            return head if _WITH_LENGTH.fullmatch(head.path) else head.without(_JSON_LENGTH)
        except asyncio.IncompleteReadError as error:
            if not error.partial.strip():
                return None
            raise
        except asyncio.LimitOverrunError as error:
            sentence = f"The header is larger than {MAX_HEAD >> 10} KiB. Send a smaller one."
            raise Refused("431 Request Header Fields Too Large", sentence) from error

    async def _body(self, head: Head) -> bytes:
        length, coding = head.get(b"content-length"), head.get(b"transfer-encoding")
        if (head.get(b"content-encoding") or b"identity").lower() != b"identity":
            sentence = "A compressed body is not taken. Send it as it is, without Content-Encoding."
            raise Refused("415 Unsupported Media Type", sentence)
        if length is not None and coding is not None:
            raise Refused("400 Bad Request", "Content-Length and Transfer-Encoding exclude each other. Send one.")
        if (head.get(b"expect") or b"").lower() == b"100-continue":
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if coding is not None:
            if coding.lower() != b"chunked":
                raise Refused("501 Not Implemented", "The only Transfer-Encoding that is taken is chunked.")
            return await self._chunks()
        if length is None:
            return b""
        if not length.isdigit():
            raise Refused("400 Bad Request", "Content-Length is not a number of bytes.")
        return await self._exactly(int(length) if len(length) < 16 else MAX_BODY + 1)

    async def _exactly(self, size: int) -> bytes:
        """The next `size` bytes. Held only once they are here: who announces much has not sent it yet."""
        if size + self._held > self._fence.max_body:
            sentence = f"The body is larger than {self._fence.max_body >> 20} MiB. Send fewer texts at a time."
            raise Refused("413 Content Too Large", sentence)
        pieces = []
        while size:
            async with asyncio.timeout(STALLED):
                piece = await self._reader.read(min(size, _PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", size)
            self._fence.hold(len(piece))
            self._held += len(piece)
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    async def _chunks(self) -> bytes:
        pieces = bytearray()
        for _ in range(MAX_CHUNKS):
            await asyncio.sleep(0)  # what has arrived already is read without a pause, and others wait
            async with asyncio.timeout(STALLED):
                line = (await self._reader.readuntil(b"\r\n"))[:-2].partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,12}", line):
                raise Refused("400 Bad Request", "A chunk's size is not a hexadecimal number.")
            size = int(line, 16)
            pieces += await self._exactly(size)
            async with asyncio.timeout(STALLED):
                if size and await self._reader.readexactly(2) != b"\r\n":
                    raise Refused("400 Bad Request", "A chunk is not as long as it says.")
                if not size:
                    while await self._reader.readuntil(b"\r\n") != b"\r\n":
                        pass  # trailers, which nobody reads
                    return bytes(pieces)
        sentence = f"The body has more than {MAX_CHUNKS} chunks. Send larger ones, or a Content-Length."
        raise Refused("413 Content Too Large", sentence)

    def _let_go(self) -> None:
        self._fence.release(self._held)
        self._held = 0


def _forwarded(head: Head, size: int, call: int, header: str) -> bytes:
    """With the number of the call, where it has one, in that `header`, and never with one of the caller's."""
    lines = [b"%s %s HTTP/1.1" % (head.method, head.target)]
    left_out = _HOP | {header.encode()}
    lines += [b"%s: %s" % field for field in head.fields if field[0].lower() not in left_out]
    if call:
        lines.append(b"%s: %d" % (header.encode(), call))
    if size or head.method == b"POST":
        lines.append(b"Content-Length: %d" % size)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _error(status: str, sentence: str, *fields: str) -> bytes:
    """An answer as Triton refuses, with further header `fields`."""
    body = json.dumps({"error": sentence}).encode()
    lines = (f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *fields)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, refused: Refused) -> None:
    """Answer, and read on for a moment: a caller that is still sending would see a reset instead."""
    writer.write(_error(refused.status, str(refused), "Connection: close"))
    await drained(writer)
    writer.write_eof()
    async with asyncio.timeout(2):
        while await reader.read(_PIECE):
            pass
