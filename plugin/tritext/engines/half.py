"""An engine once more, on half of the cores, for when another encoder wants all of them as much (see turns.py)."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from threading import Thread
from typing import Final

from tritext.engines.base import Engine, Runner, RunnerOptions
from tritext.engines.machine import usable_cores
from tritext.errors import TritextError

_log: Final = logging.getLogger("tritext")


class Half:
    """What `make` makes, in a thread of its own, once it is first wanted: it takes a second and the model's memory.

    An error of its is logged, and then there is none.
    """

    def __init__(self, make: Callable[[], Runner]) -> None:
        self._make = make
        self._made: Future[Runner | None] | None = None

    def runner(self) -> Runner | None:
        """The engine; None while there is none yet, or if there cannot be one."""
        if self._made is None:
            self._made = Future()
            # Not a daemon: an engine that is being made when its process ends takes it down uncleanly.
            Thread(target=self._run, args=(self._made,), name="half").start()
        return self._made.result() if self._made.done() else None

    def _run(self, made: "Future[Runner | None]") -> None:
        try:
            made.set_result(self._make())
        except (TritextError, OSError) as error:
            _log.warning("Busy encoders take turns on all cores and do not halve them: %s", error)
            made.set_result(None)


def halved(engine: Engine, options: RunnerOptions) -> RunnerOptions | None:
    """`options` for half of the threads; None where that is nothing, or `engine` has but one number of threads."""
    threads = options.threads or usable_cores()
    if not engine.divides or threads < 2:
        return None
    return replace(options, threads=threads // 2, streams=max(1, options.streams // 2), bound=False)
