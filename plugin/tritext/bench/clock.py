"""An event loop whose timers are exact."""

import asyncio
import select
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_SELECTABLE = 1024  # select(2) takes descriptors below that


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` with exact timers: those of epoll come up to a millisecond late, which would count as latency."""
    with asyncio.Runner(loop_factory=_exact_loop) as runner:
        return runner.run(main)


def _exact_loop() -> asyncio.AbstractEventLoop:
    if hasattr(selectors, "EpollSelector"):
        return asyncio.SelectorEventLoop(_ExactSelector())
    return asyncio.new_event_loop()


if hasattr(selectors, "EpollSelector"):

    class _ExactSelector(selectors.EpollSelector):
        """Waits with select(2) on the epoll descriptor itself: microseconds, where epoll rounds up to milliseconds."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            if timeout is not None and timeout > 0 and self.fileno() < _SELECTABLE:
                select.select([self.fileno()], [], [], timeout)
                timeout = 0
            return super().select(timeout)
