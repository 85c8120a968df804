"""Generated inputs, good and bad, mixed into good traffic: nobody's answer depends on who else is there.

    python -m benchmarks.reliability.inputs .demo/repository spam [--inputs 100000] [--seed 1]

A round draws some requests from hypothesis (`benchmarks.reliability.requests`): texts over all of Unicode, and requests
with one fault each. First each good one is sent alone, to a server that has nothing else to do; then all of them at
once, bad ones between. Labels, offsets and counts must be identical, but for near-ties, which are counted; how far
scores moved is reported as a share of the largest that the server gave to good traffic. Every bad one must get
INVALID_ARGUMENT, and a sentence that names its fault.
"""

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from benchmarks.reliability.company import (
    Arrays,
    Caller,
    Comparison,
    NearTie,
    Refusal,
    near_ties,
    strayed,
    without,
)
from benchmarks.reliability.requests import Asked, bad, good, request
from benchmarks.reliability.ties import Ties
from benchmarks.report import write
from tritext.build.texts import parity_texts
from tritext.repository import BuiltModel
from tritext.serve import Server
from tritext.serve.remote import Infer

_MOVED: Final = 0.02  # what is allowed in int8
_REQUESTS: Final = 24  # good ones of a round
_GOAL: Final = 600.0  # seconds: a round's requests come all at once, and none is to be refused for that


@dataclass(slots=True)
class Found:
    """What all rounds came to. `wrong` says of each failure what was asked and what came."""

    good: int = 0  # texts
    bad: int = 0  # requests
    scale: float = 0.0
    comparison: Comparison = field(default_factory=Comparison)
    ties: list[NearTie] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Judge:
    """Sends rounds to `model` at `caller` and gathers what comes; `infer` asks its steps by themselves.

    `moved`: the share of the largest logit that others in a batch may move a text's logits by.
    """

    def __init__(self, caller: Caller, infer: Infer, model: BuiltModel, moved: float) -> None:
        self._caller, self.found = caller, Found()
        name, task = model.name, model.manifest().task
        self._ties = Ties(caller, infer, model, moved)
        texts = [text for text in parity_texts(pairs=False) if isinstance(text, str)]
        fixed = {"function_to_apply": "none", "top_k": "all"} if task == "text-classification" else {}
        self._traffic = [Asked(request(name, texts[at : at + 1 + at % 4], fixed)) for at in range(0, len(texts), 3)]
        self._quiet = [_answered(each) for each in caller.ask(self._traffic, together=False)]
        self.found.scale = max(float(abs(each["SCORE"]).max(initial=0.0)) for each in self._quiet)

    def round(self, good: Sequence[Asked], bad: Sequence[Asked]) -> None:
        """Send all of it; AssertionError, with the first thing that is wrong."""
        found, caller = self.found, self._caller
        quiet = caller.ask(good, together=False)
        mixed = [*self._traffic, *_shuffled(good, bad)]
        answers = dict(zip(map(id, mixed), caller.ask(mixed, together=True), strict=True))
        before = [*zip(self._traffic, self._quiet, strict=True), *zip(good, quiet, strict=True)]
        pairs = [(asked, alone, answers[id(asked)]) for asked, alone in before]
        wrong = [problem for each in pairs if (problem := self._compare(*each))]
        wrong += [problem for asked in bad if (problem := self._refused(asked, answers[id(asked)]))]
        found.good += sum(each.rows for each in good)
        found.bad += len(bad)
        found.wrong += wrong
        assert not wrong, wrong[0]  # noqa: S101 - what hypothesis takes for a failure, and shrinks

    def _compare(self, asked: Asked, quiet: Arrays | Refusal, busy: Arrays | Refusal) -> str | None:
        if isinstance(quiet, Refusal) or isinstance(busy, Refusal):
            return f"{_shown(asked)}\nis good and was answered with {quiet if isinstance(quiet, Refusal) else busy}"
        self.found.ties += near_ties([quiet], [busy])
        if (rows := strayed(quiet, busy)) and (gap := self._ties.nearest(asked, busy, rows)) is not None:
            self.found.ties += [NearTie(0, row, gap) for row in rows]
            quiet, busy = without(quiet, rows), without(busy, rows)
        problem = self.found.comparison.add(quiet, busy, self.found.scale)
        return None if problem is None else f"{_shown(asked)}\ngot {problem} in company"

    def _refused(self, asked: Asked, answer: Arrays | Refusal) -> str | None:
        if not isinstance(answer, Refusal):
            return f"{_shown(asked)}\nis bad and was answered"
        self.found.refusals[answer.code] += 1
        named = (asked.refused or "") in answer.sentence
        calm = not any(word in answer.sentence for word in ("Traceback", 'File "'))
        fine = answer.code == "INVALID_ARGUMENT" and named and calm
        return None if fine else f"{_shown(asked)}\nis bad ({asked.refused}) and was answered with {answer}"


def _shown(asked: Asked) -> str:
    parts = [
        str(asked.request.inputs),
        str(asked.request.parameters),
        str(list(asked.request.raw_input_contents))[:400],
    ]
    return " ".join(" ".join(parts).split())


def _answered(answer: Arrays | Refusal) -> Arrays:
    if isinstance(answer, Refusal):
        raise SystemExit(f"The server refuses good traffic: {answer}.")
    return answer


def _shuffled(good: Sequence[Asked], bad: Sequence[Asked]) -> list[Asked]:
    """Bad ones spread among good ones."""
    mixed = list(good)
    for index, each in enumerate(bad):
        mixed.insert(index * 7919 % (len(mixed) + 1), each)
    return mixed


def run(judge: Judge, model: BuiltModel, *, inputs: int, seed: int, longest: int = 2000) -> float:
    """Rounds until `inputs` texts were sent in company; seconds taken. AssertionError where something was wrong."""
    task = model.manifest().task
    most = max(1, inputs)
    begun = time.monotonic()
    while judge.found.good < most:
        seed += 1

        @seeded(seed)
        @settings(
            max_examples=20, deadline=None, database=None, phases=[Phase.generate], print_blob=False,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(
            st.lists(good(model.name, task, longest), min_size=_REQUESTS, max_size=_REQUESTS),
            st.lists(bad(model.name), min_size=_REQUESTS // 3, max_size=_REQUESTS // 3),
        )
        def rounds(some: list[Asked], others: list[Asked]) -> None:
            if judge.found.good < most:
                judge.round(some, others)

        rounds()
    return time.monotonic() - begun


def report(model: BuiltModel, found: Found, seconds: float) -> dict[str, Any]:
    """The figures that are kept."""
    engine, comparison = model.manifest().engine, found.comparison
    return {
        "model": model.name, "engine": dict(engine), "seconds": round(seconds, 1), "good_texts": found.good,
        "bad_requests": found.bad, "refusals": dict(found.refusals), "wrong": found.wrong[:20],
        "compared_rows": comparison.rows, "bit_equal_rows": comparison.bit_equal,
        "largest_difference_of_scores": comparison.worst, "largest_score": found.scale,
        "near_ties": [asdict(tie) for tie in found.ties[:50]], "near_ties_count": len(found.ties),
    }  # fmt: skip


def main(repository: Path, name: str, inputs: int, seed: int) -> None:
    """Ask, print, keep the figures."""
    server = Server(repository, models=[name], grpc_port=0, http_port=0, metrics_port=0, latency_goal=_GOAL)
    with server:
        server.wait_ready()
        [model] = server.models
        with Caller(server.grpc_url) as caller:
            judge = Judge(caller, server.remote.infer, model, _MOVED)
            try:
                seconds = run(judge, model, inputs=inputs, seed=seed)
            except AssertionError as error:
                raise SystemExit(str(error)) from None
    figures = report(model, judge.found, seconds)
    print({key: value for key, value in figures.items() if key != "near_ties"})
    command = f"python -m benchmarks.reliability.inputs REPOSITORY {name} --inputs {inputs} --seed {seed}"
    write(f"reliability-inputs-{name}", command, figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability.inputs", description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("name")
    parser.add_argument("--inputs", type=int, default=100_000, help="good texts")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.repository, arguments.name, arguments.inputs, arguments.seed)
