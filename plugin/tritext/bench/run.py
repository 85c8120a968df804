"""A whole benchmark: find the model, make its texts, put on every load, give the results."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Protocol

import numpy as np

from tritext.bench import metrics, report
from tritext.bench.lengths import Lengths, texts_of
from tritext.bench.measure import Conditions, Load, Measured, measure
from tritext.bench.served import Served
from tritext.bench.traffic import Item, Traffic, traffic
from tritext.client.options import Scalar
from tritext.client.security import Security
from tritext.errors import InvalidInput, Unavailable

_SHORTEST: Final = "a"
_QUESTION: Final = "What is said here?"


class Progress(Protocol):
    """Is told how far the benchmark is."""

    def step(self, title: str, total: int | None = None) -> None:
        """Something begins that takes `total` advances."""

    def advance(self) -> None:
        """It is one further."""

    def done(self, note: str = "") -> None:
        """It has ended."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: `texts` as they are, or where None `count` texts with `lengths`."""

    name: str
    loads: Sequence[Load]
    texts: Sequence[Item] | None
    count: int
    lengths: Lengths
    parameters: Mapping[str, Scalar]
    batch_size: int
    timeout: float
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class Results:
    """What every load showed, and what it was about."""

    about: dict[str, Any]
    measured: list[Measured]

    def document(self, command: str) -> dict[str, Any]:
        """For JSON; `command` is what made them."""
        return report.document(command, self.about, self.measured)


def run(plan: Plan, address: str, metrics_url: str, progress: Progress, security: Security | None = None) -> Results:
    """Run `plan` against the server at `address`; raises what `tritext.Client` raises, and InvalidInput."""
    progress.step(f"Prepare requests to {plan.name}")
    served = Served(address, plan.name, plan.timeout, security)
    if plan.batch_size > max(1, served.info.max_batch_size):
        raise InvalidInput(
            f"--batch-size is {plan.batch_size}, and model {plan.name} takes at most {served.info.max_batch_size} "
            "texts in a request."
        )
    items = plan.texts or _made(plan, served)
    counts = served.count(items, plan.parameters)
    encoder = served.encoder(plan.parameters)
    sent = traffic(
        encoder,
        items,
        counts,
        batch_size=plan.batch_size,
        max_length=served.info.max_length,
        is_expanded=served.is_expanded(counts, plan.parameters),
    )
    found = {"texts": len(items), **_spread(counts)}
    progress.done("{texts:,} texts; median {median}, 95th percentile {p95}, longest {longest} tokens".format(**found))
    counters = _counters_at(metrics_url, served, progress)
    about = {
        "model": {"name": plan.name, "build": served.info.build, "task": served.info.task, "address": address},
        "texts": {"from": "a file" if plan.texts else str(plan.lengths), **found},
        "batch_size": plan.batch_size,
        "parameters": dict(plan.parameters),
        "conditions": {**asdict(plan.conditions), "timeout": plan.timeout},
    }
    return Results(about, [_under(load, served, sent, plan.conditions, counters, progress) for load in plan.loads])


def _under(
    load: Load, served: Served, sent: Traffic, conditions: Conditions, counters: str | None, progress: Progress
) -> Measured:
    progress.step(str(load).capitalize(), conditions.ticks)
    measured = measure(served, sent, load, conditions, counters, lambda *_: progress.advance())
    progress.done(report.short(measured.client))
    return measured


def _made(plan: Plan, served: Served) -> list[Item]:
    """Texts of the lengths that are wanted, as far as the model reads them."""
    item = partial(_item, served, served.sample())

    def count(texts: Sequence[str]) -> list[int]:
        return served.count([item(text) for text in texts], plan.parameters)

    shortest = count([_SHORTEST])[0]
    lengths = plan.lengths.draw(plan.count, plan.conditions.seed, shortest, served.info.max_length)
    return [item(text) for text in texts_of(lengths, count, plan.conditions.seed)]


def _item(served: Served, sample: str | None, text: str) -> Item:
    """`text` as the model takes it.

    With a question before it where it answers questions about texts, and with the model's own sample where it does not
    answer every text: that has the mask that is to be filled.
    """
    texts = served.task.texts
    if len(texts) == 2 and not texts[1].optional:
        return (_QUESTION, text)
    return f"{sample} {text}" if sample else text


def _spread(counts: Sequence[int]) -> dict[str, int]:
    """Of token counts."""
    median, p95, longest = np.percentile(counts, [50, 95, 100], method="inverted_cdf").tolist()
    return {"median": median, "p95": p95, "longest": longest}


def _counters_at(url: str, served: Served, progress: Progress) -> str | None:
    """`url` where the server's counters can be read there; else None, and a note."""
    progress.step("Read the server's counters")
    try:
        known = {model for _, model in metrics.read(url)}
    except Unavailable as error:
        progress.done(f"left out: {error}")
        return None
    if served.steps.encoder not in known:
        progress.done(f"left out: {url} says nothing of {served.steps.encoder}; --metrics-url says where they are")
        return None
    progress.done(url)
    return url
