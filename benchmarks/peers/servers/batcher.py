"""Dynamic batching in an asyncio server: whatever waits while the model is busy is its next batch."""

import asyncio
from collections.abc import Callable
from typing import Any


class Batcher:
    """Awaitable calls of a function that takes a list of at most `size` texts and gives a list of answers.

    No text waits for company: at low load it goes alone. The function runs in one thread beside the event loop.
    """

    def __init__(self, predict: Callable[[list[str]], list[Any]], size: int) -> None:
        self.predict = predict
        self.size = size
        self.waiting: asyncio.Queue = asyncio.Queue()

    async def __call__(self, text: str) -> Any:
        """The answer to one text."""
        answer = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((text, answer))
        return await answer

    async def run(self) -> None:
        """Serve for ever; a task of the server's lifespan."""
        while True:
            batch = [await self.waiting.get()]
            while len(batch) < self.size and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            try:
                answers = await asyncio.to_thread(self.predict, [text for text, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)
            except Exception as error:  # noqa: BLE001 - every caller of the batch gets it
                for _, future in batch:
                    future.set_exception(error)
