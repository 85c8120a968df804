"""One response of Triton's, passed on as it comes."""

import asyncio
from collections.abc import Mapping
from typing import Final

_PIECE: Final = 1 << 16


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: bytes) -> bool:
    """Pass one response on; whether another request can follow over the same connections."""
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(head)
    fields: Mapping[bytes, bytes] = {
        key.strip().lower(): value.strip() for key, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
    }
    status = head[9:12]
    if method != b"HEAD" and status not in {b"204", b"304"}:
        if fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            await _relay_chunks(reader, writer)
        elif b"content-length" in fields:
            await _relay_exactly(reader, writer, int(fields[b"content-length"]))
        else:
            return False
    await writer.drain()
    return fields.get(b"connection", b"").lower() != b"close"


async def _relay_exactly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int) -> None:
    while size:
        piece = await reader.read(min(size, _PIECE))
        if not piece:
            raise ConnectionResetError
        writer.write(piece)
        await writer.drain()
        size -= len(piece)


async def _relay_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        line = await reader.readuntil(b"\r\n")
        writer.write(line)
        size = int(line.partition(b";")[0], 16)
        await _relay_exactly(reader, writer, size + 2)
        if not size:
            return
