"""The client for asyncio. What a call is stands in `tritext.client.sync` and is the same here."""

import importlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, Unpack, overload

from tritext.client import wire
from tritext.client.batching import AsyncTexts, Batch, Texts
from tritext.client.call import TIMEOUT, Call, ClientBase, Plan, check_texts
from tritext.client.options import CallOptions
from tritext.client.results import ModelInfo, R, Result
from tritext.client.retry import Patience


@dataclass(slots=True)
class _Pending:
    """A batch on its way."""

    batch: Batch
    patience: Patience
    answer: Any


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
        self._asyncio: Any = importlib.import_module("asyncio")  # not above: it costs 50 ms
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
        plan = self._info_plan(name)
        with self._doubting(plan):
            return await self._ask_info(plan)

    async def _stream(self, plan: Plan, texts: Texts | AsyncTexts) -> AsyncIterator[Any]:
        with self._doubting(plan):
            call = Call(plan, self._infos.get(plan.model) or await self._ask_info(plan))
            window: deque[_Pending] = deque()
            try:
                async for batch in _split(call, texts):
                    while window and (len(window) == plan.in_flight or not batch.texts or window[0].answer.done()):
                        for result in await self._receive(call, window):
                            yield result
                    if batch.failure is not None:
                        raise batch.failure
                    if batch.texts:
                        patience = plan.patience()
                        window.append(_Pending(batch, patience, self._send(call, batch, patience)))
            finally:
                for pending in window:
                    pending.answer.cancel()

    def _send(self, call: Call, batch: Batch, patience: Patience) -> Any:
        left = patience.left
        request = call.request(batch, left)
        answer = self._connected().ModelInfer(request, timeout=left, metadata=self._metadata)
        patience.watch(answer)
        return answer

    async def _receive(self, call: Call, window: deque[_Pending]) -> list[Any]:
        """The results of the first in the window, which leaves it."""
        first = window[0]
        while True:
            try:
                response = await self._answered(call.plan, first.answer, first.batch.items)
            except self._aio.AioRpcError as error:
                seconds = self._wait(error, first.patience)
                if seconds is None:
                    raise self._failure(call.plan, error, first.batch.items) from error
            else:
                break
            await self._asyncio.sleep(seconds)
            await self._send_again(call, window)
        window.popleft()
        return call.results(response, first.batch)

    async def _send_again(self, call: Call, window: deque[_Pending]) -> None:
        """The first, and what was refused behind it meanwhile, which has waited as long."""
        for pending in window:
            if pending is window[0] or await self._is_refused(pending):
                pending.answer = self._send(call, pending.batch, pending.patience)

    async def _is_refused(self, pending: _Pending) -> bool:
        if not pending.answer.done() or pending.answer.cancelled():
            return False
        try:
            await pending.answer
        except self._aio.AioRpcError as error:
            return self._wait(error, pending.patience) is not None
        return False

    async def _ask_info(self, plan: Plan) -> ModelInfo:
        request, patience = wire.messages().ModelConfigRequest(name=plan.model), plan.patience()
        while True:
            pending = self._connected().ModelConfig(request, timeout=patience.left, metadata=self._metadata)
            try:
                response = await self._answered(plan, pending)
            except self._aio.AioRpcError as error:
                seconds = self._wait(error, patience)
                if seconds is None:
                    raise self._failure(plan, error) from error
            else:
                return self._remember(plan, response)
            await self._asyncio.sleep(seconds)

    async def _answered(self, plan: Plan, pending: Any, items: range | None = None) -> Any:
        try:
            return await pending
        except self._asyncio.CancelledError:
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
