"""The served model as a benchmark sees it: what it is, how it counts tokens, and how it is asked at little cost.

What asking costs matters, because client and server share the machine: requests are serialised before the run and
answers stay bytes, but for a few that are read afterwards.
"""

import importlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from tritext import contract
from tritext.bench.load import Failed
from tritext.bench.metrics import Steps
from tritext.bench.traffic import Item, Traffic, cut
from tritext.client import Client, wire
from tritext.client.codec import Malformed, RequestEncoder, decode
from tritext.client.errors import Context, not_understood, translate
from tritext.client.options import Scalar
from tritext.repository import ROLES, step_name

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_COUNTED_AT_ONCE: Final = 256
_KEPT, _KEPT_EVERY = 64, 61  # answers that are read after the run, of every so many


class Served:
    """The model `name` at `address` (host:port). Its errors are those of `tritext.Client`."""

    def __init__(self, address: str, name: str, timeout: float) -> None:
        self.address, self.name, self.timeout = address, name, timeout
        with Client(address, timeout=timeout) as client:
            self.info = client.model(name)
        self.steps = Steps(*(step_name(name, role, self.info.build) for role in ROLES))

    def count(self, items: Sequence[Item], parameters: Mapping[str, Scalar]) -> list[int]:
        """The tokens of each item before truncation, asked of the server. Only its tokenizer step runs for this."""
        encoder = RequestEncoder(self.name, parameters)
        counts: list[int] = []
        grpc = wire.grpc()
        with wire.open_channel(grpc, self.address, None) as channel:
            for batch in cut(items, max(1, min(_COUNTED_AT_ONCE, self.info.max_batch_size))):
                request = encoder.encode(batch)
                request.outputs.add(name=contract.TOKEN_COUNT.name)  # Triton leaves out the steps behind the tokenizer
                try:
                    response = wire.stub(channel).ModelInfer(request, timeout=self.timeout)
                except grpc.RpcError as error:
                    context = Context(self.address, self.name, self.timeout, batch.items)
                    raise translate(*wire.status(error), context) from error
                counts += _token_counts(response)
        return counts

    def check(self, traffic: Traffic, answers: Mapping[int, bytes]) -> None:
        """Read `answers`, by the number of their request; ServerFault where one is not an answer to it."""
        parse = wire.messages().ModelInferResponse.FromString
        for index, answer in answers.items():
            expected = traffic.counts[index % len(traffic.counts)]
            context = Context(self.address, self.name)
            try:
                counted = [result.token_count for result in decode(parse(answer), len(expected))]
            except Malformed as error:
                raise not_understood(str(error), context) from error
            if counted != expected:
                raise not_understood(f"TOKEN_COUNT {counted}, where it was {expected} for the same texts", context)


def _token_counts(response: Any) -> list[int]:
    names = [output.name for output in response.outputs]
    raw = response.raw_output_contents[names.index(contract.TOKEN_COUNT.name)]
    return [int(count) for count in np.frombuffer(raw, "<i4")]


class Sender:
    """Sends the requests of `traffic` over one connection; belongs to the running event loop."""

    def __init__(self, served: Served, traffic: Traffic) -> None:
        self._served, self._payloads = served, traffic.payloads
        self._aio: Any = importlib.import_module("grpc.aio")
        self._channel = wire.open_channel(self._aio, served.address, None)
        # No serializer on either side: bytes in, bytes out.
        self._call = self._channel.unary_unary(METHOD)
        self.kept: dict[int, bytes] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def send(self, index: int) -> None:
        """Send request number `index`, await its answer; Failed with the name of gRPC's status otherwise."""
        try:
            answer = await self._call(self._payloads[index % len(self._payloads)], timeout=self._served.timeout)
        except self._aio.AioRpcError as error:
            raise Failed(wire.status(error)[0]) from None
        if index % _KEPT_EVERY == 0 and len(self.kept) < _KEPT:
            self.kept[index] = answer
