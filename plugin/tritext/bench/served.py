"""The served model as a benchmark sees it: what it is, how it counts tokens, and how it is asked at little cost.

What asking costs matters, because client and server share the machine: requests are serialised before the run and
answers stay bytes, but for a few that are read afterwards.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from tritext import contract
from tritext.bench.http2 import Connection
from tritext.bench.load import Failed
from tritext.bench.metrics import Steps
from tritext.bench.traffic import Item, Traffic, cut
from tritext.client import Client, wire
from tritext.client.call import Limit, Plan, encoder
from tritext.client.codec import Malformed, RequestEncoder, decode
from tritext.client.errors import Context, not_understood, translate
from tritext.client.options import Scalar
from tritext.client.security import Security
from tritext.errors import InvalidInput
from tritext.naming import ROLES, step_name
from tritext.tasks import task_named

METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_COUNTED_AT_ONCE: Final = 256
_KEPT, _KEPT_EVERY = 64, 61  # answers that are read after the run, of every so many
_EXPIRE_EVERY: Final = 0.05  # seconds


class Served:
    """The model `name` at `address` (host:port). Its errors are those of `tritext.Client`."""

    def __init__(self, address: str, name: str, timeout: float, security: Security | None = None) -> None:
        self.security = security or Security()
        self.address, self.name, self.timeout = address, name, timeout
        self.host_and_port = _host_and_port(address)
        credentials, api_key = self.security.credentials, self.security.api_key
        with Client(address, timeout=timeout, credentials=credentials, api_key=api_key) as client:
            self.info = client.model(name)
        self.task = task_named(self.info.task)
        self.steps = Steps(*(step_name(name, role, self.info.build) for role in ROLES))

    def encoder(self, parameters: Mapping[str, Scalar]) -> RequestEncoder:
        """Makes its requests; InvalidInput where `parameters` lack one of the inputs that all texts share."""
        return encoder(Plan(self.name, self.address, Limit(self.timeout), parameters), self.task)

    def count(self, items: Sequence[Item], parameters: Mapping[str, Scalar]) -> list[int]:
        """The tokens of each item before truncation, asked of the server. Only its tokenizer step runs for this."""
        encoder = self.encoder({**parameters, contract.COUNT_ONLY: True})
        counts: list[int] = []
        with self._asking() as ask:
            for batch in cut(items, max(1, min(_COUNTED_AT_ONCE, self.info.max_batch_size))):
                request = encoder.encode(batch)
                request.outputs.add(name=contract.TOKEN_COUNT.name)  # Triton leaves out the steps behind the tokenizer
                counts += _token_counts(ask("ModelInfer", request, batch.items))
        return counts

    def is_expanded(self, counts: Sequence[int], parameters: Mapping[str, Scalar]) -> bool:
        """Whether a text may be several rows for the model; `counts` are the tokens of each.

        What the build has for a parameter that is not sent is not known here.
        """
        if self.task.expands or self.task.parameters().truncation == "window":
            return True
        is_cut = parameters.get("truncation") in {"left", "right"}
        return self.task.windows and not is_cut and max(counts) > self.info.max_length

    def sample(self) -> str | None:
        """A text that the model can answer; None where it answers any."""
        with self._asking() as ask:
            told = ask("ModelConfig", wire.messages().ModelConfigRequest(name=self.name), None).config.parameters
        return told[contract.PARAM_SAMPLE].string_value if contract.PARAM_SAMPLE in told else None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Callable[[str, Any, range | None], Any]]:
        """Asks one method of Triton's after the other: its name, the request, and the items that this is about."""
        grpc = wire.grpc()
        with wire.open_channel(grpc, self.address, self.security.credentials) as channel:
            stub, metadata = wire.stub(channel), wire.metadata(self.security.api_key)

            def ask(method: str, request: Any, items: range | None) -> Any:
                try:
                    return getattr(stub, method)(request, timeout=self.timeout, metadata=metadata)
                except grpc.RpcError as error:
                    context = Context(self.address, self.name, self.timeout, items)
                    raise translate(*wire.status(error), context) from error

            yield ask

    def check(self, traffic: Traffic, answers: Mapping[int, bytes]) -> None:
        """Read `answers`, by the number of their request; ServerFault where one is not an answer to it."""
        parse = wire.messages().ModelInferResponse.FromString
        for index, answer in answers.items():
            expected = traffic.counts[index % len(traffic.counts)]
            context = Context(self.address, self.name)
            try:
                counted = [result.token_count for result in decode(parse(answer), len(expected), self.task)]
            except Malformed as error:
                raise not_understood(str(error), context) from error
            if counted != expected:
                raise not_understood(f"TOKEN_COUNT {counted}, where it was {expected} for the same texts", context)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise InvalidInput(f"{address!r} is no address. Write host:port, the port being gRPC's: localhost:8001.")
    return host.strip("[]"), int(port)


def _token_counts(response: Any) -> list[int]:
    names = [output.name for output in response.outputs]
    raw = response.raw_output_contents[names.index(contract.TOKEN_COUNT.name)]
    return [int(count) for count in np.frombuffer(raw, "<i4")]


class Sender:
    """Sends the requests of `traffic` to `method` over one connection; belongs to the running event loop."""

    def __init__(self, served: Served, traffic: Traffic, method: str = METHOD) -> None:
        self._served, self._payloads, self._method = served, traffic.payloads, method
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self.kept: dict[int, bytes] = {}

    async def __aenter__(self) -> Self:
        with contextlib.suppress(Failed):  # then the requests will say so
            await self._connected()
        self._expiring = asyncio.create_task(self._expire())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._expiring.cancel()
        if self._connection is not None:
            self._connection.close()

    async def send(self, index: int) -> None:
        """Send request number `index`, await its answer; Failed with the name of gRPC's status otherwise."""
        connection = self._connection
        if connection is None or not connection.is_open:
            connection = await self._connected()
        answer = await connection.ask(self._payloads[index % len(self._payloads)])
        if index % _KEPT_EVERY == 0 and len(self.kept) < _KEPT:
            self.kept[index] = answer

    async def _connected(self) -> Connection:
        async with self._connecting:
            if self._connection is not None and self._connection.is_open:
                return self._connection
            served, loop = self._served, asyncio.get_running_loop()
            headers = wire.metadata(served.security.api_key)
            opening = loop.create_connection(
                lambda: Connection(served.address, self._method, served.timeout, headers),
                *served.host_and_port,
                ssl=served.security.context(),
            )
            try:
                _, connection = await asyncio.wait_for(opening, served.timeout)
            except OSError:
                raise Failed("UNAVAILABLE") from None
            self._connection = connection
            return connection

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_EXPIRE_EVERY)
            if self._connection is not None:
                self._connection.expire()
