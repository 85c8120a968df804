"""Waiting for what a server does in its own time."""

import time
from collections.abc import Callable


def until(happened: Callable[[], object], what: Callable[[], object] = lambda: "", patience: float = 60.0) -> None:
    """Wait for it; `what` is shown where it does not happen."""
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
