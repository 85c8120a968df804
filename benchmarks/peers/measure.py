"""The rounds: every server, one after the other, under every load, again and again.

All servers stay up for the whole run, for starting one takes longer than measuring it. Only one is asked at a time,
and the others must cost it nothing meanwhile: LitServe's workers poll their queue and use a fifth of a core when idle.
So those that can be are stopped (SIGSTOP). What the others use is measured and reported.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.catalogue import Peer
from benchmarks.peers.clients import Client, client
from benchmarks.peers.prepare import Texts
from benchmarks.peers.processes import Running, ServerFailed
from tritext.bench.load import Failed, Run, closed_loop, open_loop, run
from tritext.bench.summary import Summary, summary

START: Final = 180.0  # seconds until the first answer
WARM_UP: Final = 16  # callers
LONGEST: Final = 8.0  # seconds of a window
SETTLED: Final = 2.0  # seconds: a loop of callers is in its stride after two or three batches
CAP: Final = 10_000  # requests outstanding


@dataclass(frozen=True, order=True)
class Load:
    """A closed loop of `level` callers, or an open one of `level` texts a second."""

    loop: str
    level: float

    def __str__(self) -> str:
        return f"{self.level:g} at a time" if self.loop == "closed" else f"{self.level:g}/s"


@dataclass(kw_only=True)
class Record:
    """What was seen of one server: by load, the figures and the latencies (s) of each round."""

    peer: Peer
    rounds: dict[Load, list[Summary]] = field(default_factory=dict)
    latencies: dict[Load, list[NDArray[np.float64]]] = field(default_factory=dict)
    idle_cores: list[float] = field(default_factory=list)


@dataclass(kw_only=True)
class Entrant(Record):
    """A server under measurement; ``capacity`` is in texts/s, as its warm-up shows it."""

    port: int
    running: Running
    capacity: float = 1.0

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Its turn: it is stopped before and after, if it can be."""
        if self.peer.can_be_paused:
            self.running.resume()
        try:
            yield
        finally:
            if self.peer.can_be_paused:
                self.running.pause()


def answers_rightly(entrant: Entrant, texts: Texts) -> int:
    """Wait for the server, compare its labels with the checkpoint's and return how many there were; ServerFailed."""

    async def labels() -> list[str]:
        async with client(entrant.peer, entrant.port, texts.checked) as asked:
            await _until_it_answers(entrant.running, asked)
            return [await asked.label(place) for place in range(len(texts.checked))]

    found = run(labels())
    wrong = [place for place, label in enumerate(found) if label != texts.labels[place]]
    if wrong:
        first = wrong[0]
        raise ServerFailed(
            f"{len(wrong)} of {len(found)} labels are not the checkpoint's: {found[first]} where it says "
            f"{texts.labels[first]} for {texts.checked[first][:60]!r}"
        )
    return len(found)


async def _until_it_answers(running: Running, asked: Client) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START
    while True:
        try:
            await asked.send(0)
        except (Failed, OSError, TimeoutError) as error:  # aiohttp's failures to connect are OSErrors
            running.raise_if_ended()
            if loop.time() > deadline:
                raise ServerFailed(f"no answer within {START:g} s ({error}); {running.reason()}") from None
            await asyncio.sleep(0.2)
        else:
            return


def warm_up(entrant: Entrant, texts: Texts, seconds: float) -> None:
    """Load it, and note the texts a second that it carries."""
    done = _put(entrant, texts, Load("closed", WARM_UP), seconds, seconds, 0)
    entrant.capacity = max(done.texts_per_second, 1.0)
    entrant.rounds.clear()
    entrant.latencies.clear()


def window(load: Load, capacity: float, seconds: float) -> tuple[float, float]:
    """Seconds that do not count and seconds that do: for slow servers, as many as their callers need to come round."""
    if load.loop == "open":
        return 0.5 + 1 / load.level, min(max(seconds, 30 / load.level), LONGEST)
    cycle = load.level / capacity
    return min(max(0.5, cycle), SETTLED), min(max(seconds, cycle), LONGEST)


def visit(entrant: Entrant, others: Sequence[Entrant], texts: Texts, load: Load, seconds: float, number: int) -> None:
    """Measure one server under one load in round `number`, and what the `others` use meanwhile."""
    used, begun = [other.running.cpu_seconds() for other in others], time.monotonic()
    _put(entrant, texts, load, *window(load, entrant.capacity, seconds), number)
    lasted = time.monotonic() - begun
    for other, before in zip(others, used, strict=True):
        other.idle_cores.append((other.running.cpu_seconds() - before) / lasted)


def _put(entrant: Entrant, texts: Texts, load: Load, warmup: float, seconds: float, number: int) -> Summary:
    turned = texts.turned(number)

    async def main() -> Run:
        async with client(entrant.peer, entrant.port, turned.texts) as asked:
            if load.loop == "closed":
                return await closed_loop(asked.send, concurrency=int(load.level), seconds=seconds, warmup=warmup)
            return await open_loop(asked.send, rate=load.level, seconds=seconds, warmup=warmup, seed=number, cap=CAP)

    done = run(main())
    entrant.running.raise_if_ended()
    figures = summary(done, [1] * len(turned.tokens), turned.tokens)
    entrant.rounds.setdefault(load, []).append(figures)
    entrant.latencies.setdefault(load, []).append(done.latencies)
    return figures
