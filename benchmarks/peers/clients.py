"""How a server is asked: requests made before the run, one connection pool a run, answers left as bytes.

What asking costs matters, because client and server share the machine's cores.
"""

import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

import aiohttp

from benchmarks.peers.catalogue import Http, Peer, Triton, payload
from tritext.bench.load import Failed
from tritext.bench.served import METHOD
from tritext.client import wire
from tritext.client.batching import Batch
from tritext.client.codec import RequestEncoder

TIMEOUT: Final = 120.0  # seconds


class Client(Protocol):
    """Asks one server about a fixed list of texts; an asynchronous context manager of the running event loop."""

    async def __aenter__(self) -> Self:
        """Open it."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""

    async def send(self, index: int) -> None:
        """Ask about text number `index` modulo their count; Failed where there is no answer."""

    async def label(self, index: int) -> str:
        """The label of a text."""


def client(peer: Peer, port: int, texts: Sequence[str]) -> Client:
    """A client of `peer`, which listens on `port` of this machine."""
    if isinstance(peer.protocol, Http):
        return HttpClient(peer.protocol, port, texts)
    return TritonClient(peer.protocol, port, texts)


class HttpClient:
    """Over HTTP/1.1 with connections kept alive."""

    def __init__(self, protocol: Http, port: int, texts: Sequence[str]) -> None:
        self._protocol = protocol
        self._url = f"http://127.0.0.1:{port}{protocol.path}"
        self._bodies = [payload(protocol, text) for text in texts]

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            headers={"Content-Type": "application/json"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def _ask(self, index: int) -> bytes:
        async with self._session.post(self._url, data=self._bodies[index % len(self._bodies)]) as response:
            answer = await response.read()
            if response.status != 200:
                raise Failed(f"HTTP {response.status}")
            return answer

    async def send(self, index: int) -> None:
        """See `Client`."""
        await self._ask(index)

    async def label(self, index: int) -> str:
        """See `Client`."""
        return self._protocol.label(json.loads(await self._ask(index)))


class TritonClient:
    """Over one gRPC connection, bytes in and bytes out."""

    def __init__(self, protocol: Triton, port: int, texts: Sequence[str]) -> None:
        encoder = RequestEncoder(protocol.model, {})
        self._address = f"127.0.0.1:{port}"
        self._payloads = [encoder.encode(Batch(0, [text.encode()])).SerializeToString() for text in texts]

    async def __aenter__(self) -> Self:
        self._aio: Any = __import__("grpc.aio").aio
        self._channel = wire.open_channel(self._aio, self._address, None)
        self._call = self._channel.unary_unary(METHOD)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def _ask(self, index: int) -> bytes:
        try:
            answer: bytes = await self._call(self._payloads[index % len(self._payloads)], timeout=TIMEOUT)
        except self._aio.AioRpcError as error:
            raise Failed(wire.status(error)[0]) from None
        return answer

    async def send(self, index: int) -> None:
        """See `Client`."""
        await self._ask(index)

    async def label(self, index: int) -> str:
        """See `Client`."""
        response = wire.messages().ModelInferResponse.FromString(await self._ask(index))
        names = [output.name for output in response.outputs]
        content: bytes = response.raw_output_contents[names.index("LABEL")]
        return content[4:].decode()  # after its length; there is one
