"""One response of Triton's, passed on as it comes."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

STALLED: Final = 30.0  # seconds without a byte that is taken, or sent
_PIECE: Final = 1 << 16


async def drained(writer: asyncio.StreamWriter) -> None:
    """What was written has been sent; TimeoutError where nobody reads it."""
    async with asyncio.timeout(STALLED):
        await writer.drain()


class Relay:
    """A response from `reader` to `writer`, for a request of that `method`; `minor` is its caller's version of HTTP/1.

    `begun` is called when it begins. TimeoutError where its caller does not read it.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: bytes,
        minor: bytes,
        begun: Callable[[], None],
    ) -> None:
        self._reader, self._writer, self._method, self._begun = reader, writer, method, begun
        self._takes_chunks = minor == b"1"  # HTTP/1.0 does not know them (RFC 9112, 6.1)

    async def run(self) -> bool:
        """Pass it on; whether another request can follow over the same connections."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        self._begun()
        fields: Mapping[bytes, bytes] = {
            key.strip().lower(): value.strip()
            for key, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
        }
        is_chunked = fields.get(b"transfer-encoding", b"").lower() == b"chunked"
        self._writer.write(_without_coding(head) if is_chunked and not self._takes_chunks else head)
        status = head[9:12]
        if self._method != b"HEAD" and status not in {b"204", b"304"}:
            if is_chunked:
                await self._chunks()
            elif b"content-length" in fields:
                await self._exactly(int(fields[b"content-length"]))
            else:
                return False
        await drained(self._writer)
        return fields.get(b"connection", b"").lower() != b"close"

    async def _exactly(self, size: int) -> None:
        while size:
            piece = await self._reader.read(min(size, _PIECE))
            if not piece:
                raise ConnectionResetError
            self._writer.write(piece)
            await drained(self._writer)
            size -= len(piece)

    async def _chunks(self) -> None:
        while True:
            line = await self._reader.readuntil(b"\r\n")
            size = int(line.partition(b";")[0], 16)
            if self._takes_chunks:
                self._writer.write(line)
                await self._exactly(size + 2)
            else:
                await self._exactly(size)
                await self._reader.readexactly(2)
            if not size:
                return


def _without_coding(head: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"transfer-encoding:"))
