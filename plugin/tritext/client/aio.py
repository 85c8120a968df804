"""The client for asyncio. What a call is stands in `tritext.client.sync` and is the same here."""

import importlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import Any, Self, Unpack, overload

from tritext.client import wire
from tritext.client.batching import AsyncTexts, Batch, Texts
from tritext.client.call import TIMEOUT, Call, ClientBase, Plan, check_texts
from tritext.client.options import CallOptions
from tritext.client.results import ModelInfo, R, Result


class AsyncClient(ClientBase):
    """`tritext.Client` for asyncio: ``await AsyncClient("localhost:8001").classify("spam", ["…"])``.

    Belongs to the event loop it is first used in; any number of its tasks may share it. Closed by `close` or by
    leaving its ``async with`` block.
    """

    def __init__(
        self,
        address: str = "localhost:8001",
        *,
        timeout: float = TIMEOUT,
        credentials: Any = None,
        api_key: str | None = None,
    ) -> None:
        super().__init__(address, timeout, api_key)
        self._credentials = credentials
        self._aio: Any = importlib.import_module("grpc.aio")
        self._cancelled: Any = importlib.import_module("asyncio").CancelledError  # not above: it costs 50 ms
        self._channel: Any = None
        self._stub: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls in flight in other tasks fail with Unavailable."""
        self._is_closed = True
        if self._channel is not None:
            await self._channel.close()

    @overload
    async def classify(
        self, model: str, texts: Texts | AsyncTexts, *, result_type: type[R], **options: Unpack[CallOptions]
    ) -> list[R]: ...
    @overload
    async def classify(
        self, model: str, texts: Texts | AsyncTexts, *, result_type: None = None, **options: Unpack[CallOptions]
    ) -> list[Result]: ...
    async def classify(
        self, model: str, texts: Texts | AsyncTexts, *, result_type: Any = None, **options: Unpack[CallOptions]
    ) -> list[Any]:
        """`Client.classify`; `texts` may be an asynchronous iterable too."""
        check_texts(texts)
        plan = self._plan(model, result_type, options, whole_call=True)
        return [result async for result in self._stream(plan, texts)]

    @overload
    def classify_iter(
        self, model: str, texts: Texts | AsyncTexts, *, result_type: type[R], **options: Unpack[CallOptions]
    ) -> AsyncIterator[R]: ...
    @overload
    def classify_iter(
        self, model: str, texts: Texts | AsyncTexts, *, result_type: None = None, **options: Unpack[CallOptions]
    ) -> AsyncIterator[Result]: ...
    def classify_iter(
        self, model: str, texts: Texts | AsyncTexts, *, result_type: Any = None, **options: Unpack[CallOptions]
    ) -> AsyncIterator[Any]:
        """`Client.classify_iter`; `texts` may be an asynchronous iterable too."""
        check_texts(texts)
        return self._stream(self._plan(model, result_type, options, whole_call=False), texts)

    async def model(self, name: str) -> ModelInfo:
        """`Client.model`."""
        return await self._ask_info(self._info_plan(name))

    async def _stream(self, plan: Plan, texts: Texts | AsyncTexts) -> AsyncIterator[Any]:
        call = Call(plan, self._infos.get(plan.model) or await self._ask_info(plan))
        window: deque[tuple[Batch, Any]] = deque()
        try:
            async for batch in _split(call, texts):
                while window and (len(window) == plan.in_flight or not batch.texts or window[0][1].done()):
                    for result in await self._receive(call, *window.popleft()):
                        yield result
                if batch.failure is not None:
                    raise batch.failure
                if batch.texts:
                    window.append((batch, self._send(call, batch)))
        finally:
            for _, pending in window:
                pending.cancel()

    def _send(self, call: Call, batch: Batch) -> Any:
        return self._connected().ModelInfer(
            call.request(batch), timeout=call.plan.limit.left(), metadata=self._metadata
        )

    async def _receive(self, call: Call, batch: Batch, pending: Any) -> list[Any]:
        return call.results(await self._answer(call.plan, pending, batch.items), batch)

    async def _ask_info(self, plan: Plan) -> ModelInfo:
        request = wire.messages().ModelConfigRequest(name=plan.model)
        pending = self._connected().ModelConfig(request, timeout=plan.limit.left(), metadata=self._metadata)
        return self._remember(plan, await self._answer(plan, pending))

    async def _answer(self, plan: Plan, pending: Any, items: range | None = None) -> Any:
        try:
            return await pending
        except self._aio.AioRpcError as error:
            raise self._failure(plan, error, items) from error
        except self._cancelled:
            if self._is_closed:  # `close` cancels calls, not the tasks that wait for them
                raise self._failure(plan, None, items) from None
            pending.cancel()
            raise

    def _connected(self) -> Any:
        self._check_open()
        if self._stub is None:
            # Not before: a channel belongs to the event loop that runs when it is made.
            self._channel = wire.open_channel(self._aio, self.address, self._credentials)
            self._stub = wire.stub(self._channel)
        return self._stub


async def _split(call: Call, texts: Texts | AsyncTexts) -> AsyncIterator[Batch]:
    if isinstance(texts, AsyncIterable):
        async for batch in call.batcher.split_async(texts):
            yield batch
    else:
        for batch in call.batcher.split(texts):
            yield batch
