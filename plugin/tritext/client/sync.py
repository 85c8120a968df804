"""The client for ordinary code."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from threading import Event
from types import TracebackType
from typing import Any, Final, Self, Unpack, overload

from tritext.client import wire
from tritext.client.batching import Batch, Texts
from tritext.client.call import TIMEOUT, Call, ClientBase, Plan, check_texts
from tritext.client.options import CallOptions
from tritext.client.results import ModelInfo, R, Result
from tritext.client.retry import Patience

_ABANDON_S: Final = 1.0  # a call that is cancelled ends at once, whatever the server does


@dataclass(slots=True)
class _Pending:
    """A batch on its way."""

    batch: Batch
    patience: Patience
    future: Any


class Client(ClientBase):
    """Asks a server for labels: ``Client("localhost:8001").classify("spam", ["…"])``.

    One client may be used by several threads at once. It connects when first used, reconnects by itself and is
    closed by `close` or by leaving its ``with`` block.

    ``address`` is the host and gRPC port. ``timeout`` is how many seconds each request may take where a call
    says nothing else. ``credentials`` (a `grpc.ChannelCredentials`) encrypt the connection. ``api_key`` is sent along
    with every request: in clear, where the connection is not encrypted.
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
        self._grpc = wire.grpc()
        self._channel = wire.open_channel(self._grpc, address, credentials)
        self._stub = wire.stub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls in flight in other threads fail with Unavailable."""
        self._is_closed = True
        self._channel.close()

    @overload
    def classify(
        self, model: str, texts: Texts, *, result_type: type[R], **options: Unpack[CallOptions]
    ) -> list[R]: ...
    @overload
    def classify(
        self, model: str, texts: Texts, *, result_type: None = None, **options: Unpack[CallOptions]
    ) -> list[Result]: ...
    def classify(
        self, model: str, texts: Texts, *, result_type: Any = None, **options: Unpack[CallOptions]
    ) -> list[Any]:
        """Label `texts` and return one result for each, in order.

        A text is a str; where every item is a tuple of two strs, each is a pair. `options` are the request's
        parameters (``top_k=2``) and how to go about it: ``timeout``, for the call as a whole, in seconds;
        ``batch_size``, the most texts in one request (32, and never above what the model takes);
        ``max_in_flight``, how many requests at a time (4); ``retries``, how often to send again what the server
        refuses for now, 0 for never (until the timeout where it has too much to do).

        `result_type` (`Classification` or `TokenClassification`) says which results are expected: InvalidInput
        where the model gives others, and a type checker then knows.

        Raises the exceptions of `tritext.errors`: InvalidInput and those under ClientError. Of one of them,
        `tritext.client.affected` tells which items it was about.
        """
        plan = self._plan(model, result_type, options, whole_call=True)
        with self._doubting(plan):
            call = self._begin(plan, texts)
            batches = call.batcher.split(texts)
            head = list(islice(batches, 3))
            if len(head) == 2 and head[0].texts and head[1].failure is None:
                return self._ask_once(call, head[0])
            return list(self._stream(call, chain(head, batches)))

    @overload
    def classify_iter(
        self, model: str, texts: Texts, *, result_type: type[R], **options: Unpack[CallOptions]
    ) -> Iterator[R]: ...
    @overload
    def classify_iter(
        self, model: str, texts: Texts, *, result_type: None = None, **options: Unpack[CallOptions]
    ) -> Iterator[Result]: ...
    def classify_iter(
        self, model: str, texts: Texts, *, result_type: Any = None, **options: Unpack[CallOptions]
    ) -> Iterator[Any]:
        """Like `classify`, for any number of texts: results come as they are ready, in order.

        Takes texts from the iterable as it goes, and holds ``batch_size * (max_in_flight + 1)`` of them at most.
        ``timeout`` is for each request. When the iterable itself raises, the results of all texts before that
        come first; likewise an exception about one batch comes after the results of those before it.
        `tritext.client.FLUSH` among the texts of a live source brings back what is on its way before more is read.
        """
        check_texts(texts)
        return self._iterate(self._plan(model, result_type, options, whole_call=False), texts)

    def model(self, name: str) -> ModelInfo:
        """What the server says of the model `name`. Always asks; `classify` asks once and remembers."""
        plan = self._info_plan(name)
        with self._doubting(plan):
            return self._ask_info(plan)

    def _begin(self, plan: Plan, texts: object) -> Call:
        check_texts(texts)
        return Call(plan, self._infos.get(plan.model) or self._ask_info(plan))

    def _iterate(self, plan: Plan, texts: Texts) -> Iterator[Any]:
        with self._doubting(plan):
            call = self._begin(plan, texts)
            yield from self._stream(call, call.batcher.split(texts))

    def _stream(self, call: Call, batches: Iterator[Batch]) -> Iterator[Any]:
        window: deque[_Pending] = deque()
        try:
            for batch in batches:
                while window and (len(window) == call.plan.in_flight or not batch.texts or window[0].future.done()):
                    yield from self._receive(call, window)
                if batch.failure is not None:
                    raise batch.failure
                if batch.texts:
                    patience = call.plan.patience()
                    window.append(_Pending(batch, patience, self._send(call, batch, patience)))
        finally:
            _abandon([pending.future for pending in window])

    def _send(self, call: Call, batch: Batch, patience: Patience) -> Any:
        left = patience.left
        request = call.request(batch, left)
        with self._open():
            future = self._stub.ModelInfer.future(request, timeout=left, metadata=self._metadata)
        patience.watch(future)
        return future

    def _receive(self, call: Call, window: deque[_Pending]) -> list[Any]:
        """The results of the first in the window, which leaves it."""
        first = window[0]
        while True:
            try:
                response = first.future.result()
            except (self._grpc.RpcError, self._grpc.FutureCancelledError) as error:
                seconds = self._wait(error, first.patience)
                if seconds is None:
                    raise self._failure(call.plan, error, first.batch.items) from error
            else:
                break
            time.sleep(seconds)
            self._send_again(call, window)
        window.popleft()
        return call.results(response, first.batch)

    def _send_again(self, call: Call, window: deque[_Pending]) -> None:
        """The first, and what was refused behind it meanwhile, which has waited as long."""
        for pending in window:
            if pending is window[0] or (
                pending.future.done()
                and (error := pending.future.exception()) is not None
                and self._wait(error, pending.patience) is not None
            ):
                pending.future = self._send(call, pending.batch, pending.patience)

    def _ask_once(self, call: Call, batch: Batch) -> list[Any]:
        """The only batch of a call, without the thread that a future costs: 0.15 ms less."""
        return call.results(
            self._insist(
                call.plan,
                lambda left: self._stub.ModelInfer(call.request(batch, left), timeout=left, metadata=self._metadata),
            ),
            batch,
        )

    def _ask_info(self, plan: Plan) -> ModelInfo:
        request = wire.messages().ModelConfigRequest(name=plan.model)
        return self._remember(
            plan,
            self._insist(plan, lambda left: self._stub.ModelConfig(request, timeout=left, metadata=self._metadata)),
        )

    def _insist(self, plan: Plan, ask: Callable[[float], Any]) -> Any:
        """What `ask` gives, which is told the seconds left, after as many tries as are worth it."""
        patience = plan.patience()
        while True:
            try:
                with self._open():
                    return ask(patience.left)
            except self._grpc.RpcError as error:
                seconds = self._wait(error, patience)
                if seconds is None:
                    raise self._failure(plan, error) from error
            time.sleep(seconds)

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Around what sends a request: ClientError where the client is closed, or is being so by another thread."""
        self._check_open()
        try:
            yield
        except ValueError:  # gRPC's, of a closed channel
            self._check_open()
            raise


def _abandon(futures: list[Any]) -> None:
    """Cancel `futures`, and return when gRPC's own thread is done with them.

    A program that ends while that thread holds a call's lock never ends: Python freezes the thread and then waits for
    the lock to destroy the call.
    """
    over = [Event() for _ in futures]
    for future, event in zip(futures, over, strict=True):
        future.add_done_callback(lambda _, event=event: event.set())
        future.cancel()
    for event in over:
        event.wait(_ABANDON_S)
