"""One benchmark: a served model, its traffic, and the loads that it is put under, one after the other."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from tritext.bench import load, metrics
from tritext.bench.metrics import Counters, ServerSide
from tritext.bench.served import Sender, Served
from tritext.bench.summary import Summary, summary
from tritext.bench.traffic import Traffic
from tritext.errors import Unavailable

_TOLD_LATE: Final = 1.0  # seconds; an encoder brings its counts to Triton twice a second


@dataclass(frozen=True, slots=True)
class Closed:
    """So many callers, each with one request at a time."""

    concurrency: int

    def __str__(self) -> str:
        return f"concurrency {self.concurrency}"


@dataclass(frozen=True, slots=True)
class Open:
    """So many requests a second at random times, answered or not."""

    rate: float

    def __str__(self) -> str:
        return f"rate {self.rate:g}/s"


Load = Closed | Open


@dataclass(frozen=True, slots=True)
class Conditions:
    """How every load is run: seconds that count and seconds before them, at most so many requests, and the rest."""

    seconds: float = 10.0
    warmup: float = 2.0
    requests: int | None = None
    seed: int = 0
    cap: int = 10_000
    drain: float = 60.0

    @property
    def ticks(self) -> int:
        """How often a run tells how far it is."""
        return round((self.seconds + self.warmup) / load.TICK)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one load showed, to the client and in the server (None where its metrics cannot be read)."""

    load: Load
    client: Summary
    server: ServerSide | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        loop = "closed" if isinstance(self.load, Closed) else "open"
        client = asdict(self.client)
        if math.isnan(self.client.tokens_per_second):  # which JSON does not know
            client["tokens_per_second"] = None
        return {"loop": loop, **asdict(self.load), **client, "server": self.server and asdict(self.server)}


def measure(
    served: Served,
    traffic: Traffic,
    wanted: Load,
    conditions: Conditions,
    metrics_url: str | None,
    tick: load.Tick | None = None,
) -> Measured:
    """Put the load on; ServerFault where an answer is wrong. `metrics_url` None: the server's side is not asked."""

    async def look() -> Counters | None:
        try:
            return await asyncio.to_thread(metrics.read, str(metrics_url))
        except Unavailable:
            return None

    async def main() -> tuple[load.Run, dict[int, bytes]]:
        async with Sender(served, traffic) as sender:
            common: dict[str, Any] = {
                "seconds": conditions.seconds,
                "warmup": conditions.warmup,
                "requests": conditions.requests,
                "drain": conditions.drain,
                "look": look if metrics_url else None,
                "tick": tick,
            }
            if isinstance(wanted, Closed):
                run = await load.closed_loop(sender.send, concurrency=wanted.concurrency, **common)
            else:
                run = await load.open_loop(
                    sender.send, rate=wanted.rate, seed=conditions.seed, cap=conditions.cap, **common
                )
            return run, sender.kept

    encoded = _Encoded(served, metrics_url) if traffic.is_expanded else None
    run, kept = load.run(main())
    served.check(traffic, kept)
    before, after = run.looks
    server = metrics.between(before, after, served.steps) if before and after else None
    tokens: Sequence[float] = traffic.tokens
    if encoded:
        tokens = [encoded.tokens_per_request(run)] * len(traffic.tokens)
    return Measured(wanted, summary(run, traffic.texts, tokens), server)


class _Encoded:
    """The tokens that the encoder gets from here on, by the server's own count; made, and asked, while nothing is sent.

    A mean over the whole run, warm-up too: the counts come too late to tell those of the window from those before it.
    """

    def __init__(self, served: Served, url: str | None) -> None:
        self._served, self._url = served, url
        self._before = self._read()

    def tokens_per_request(self, run: load.Run) -> float:
        """Of each request of `run` that was answered; NaN where nobody can tell."""
        tokens = metrics.tokens(self._before, self._read(), self._served.steps)
        answered = int((~run.failed).sum())
        return math.nan if tokens is None or not answered else tokens / answered

    def _read(self) -> Counters:
        """Nothing where they cannot be read."""
        if self._url is None:
            return {}
        time.sleep(_TOLD_LATE)
        try:
            return metrics.read(self._url)
        except Unavailable:
            return {}
