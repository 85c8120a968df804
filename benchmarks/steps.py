"""What one text costs each step without Triton around it: in a loop, and as it is served, after the others' work.

    python -m benchmarks.steps .demo/repository spam

In a loop the processor has a step's code and data in its caches. A server's steps come one after the other, with the
encoder's weights between them and a rest until the next request: before each call the encoder is asked once, and then
nothing happens for 3 ms. What the engine itself takes is told apart.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bare import Bare, built
from benchmarks.report import write
from tritext import admission, contract
from tritext.engines.base import Runner
from tritext.engines.layouts import layout_from
from tritext.stages.base import Request, Stage, process_isolated
from tritext.stages.encoder import EncoderStage
from tritext.stages.postprocess import PostprocessStage
from tritext.stages.tokenizer import TokenizerStage

TEXT: Final = b"Good evening, are you going to come for class tomorrow at nine?"
ROUNDS, CALLS = 5, 200
REST: Final = 0.003  # seconds


class Timed:
    """A runner that notes how long its last call took."""

    def __init__(self, runner: Runner) -> None:
        self._runner, self.seconds = runner, 0.0
        self.uses_cores = runner.uses_cores

    def run(self, arrays: Any) -> Any:
        """As the runner does."""
        begun = time.perf_counter()
        try:
            return self._runner.run(arrays)
        finally:
            self.seconds = time.perf_counter() - begun


def ask(stage: Stage, request: Request) -> Any:
    """The stage's answer."""
    (answer,) = process_isolated(stage, [request])
    if isinstance(answer, Exception):
        raise SystemExit(f"{type(stage).__name__} refuses: {answer}")
    return answer


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    model = built(Path(repository), name)
    bare = Bare(model)
    engine = Timed(bare.runner)
    with tempfile.TemporaryDirectory() as boards:
        os.environ |= {admission.BOARDS: f"{boards}/", admission.LATENCY_GOAL: "1000000"}
        tokenizer = TokenizerStage.load(model.step("tokenizer"))
        encoder = EncoderStage(bare.settings, engine, layout_from(bare.variant.layout))
        encoder.meter = admission.meter(model.step("encoder"))
        encoder.deadlines = admission.deadlines(model.step("encoder"))
        postprocess = PostprocessStage.load(model.step("postprocess"))
        texts = {contract.TEXT.name: np.array([[TEXT]], dtype=np.object_)}
        first = Request(texts, timeout=3600.0, id="steps")
        second = Request(ask(tokenizer, first), timeout=3600.0, id="steps")
        third = Request({**second.inputs, **ask(encoder, second)}, timeout=3600.0, id="steps")

        def rest() -> None:
            ask(encoder, second)
            time.sleep(REST)

        steps: dict[str, tuple[Stage, Request]] = {
            "tokenizer": (tokenizer, first),
            "encoder": (encoder, second),
            "postprocess": (postprocess, third),
        }
        rounds = [
            {
                f"{step}, {how}": _microseconds(stage, request, engine if step == "encoder" else None, before)
                for step, (stage, request) in steps.items()
                for how, before in (("in a loop", lambda: None), ("as served", rest))
            }
            for _ in track(range(ROUNDS), "Measuring", console=Console(stderr=True))
        ]
    tokens = int(second.inputs[contract.ATTENTION_MASK.name].sum())
    table = Table("microseconds a request", "median", "min", "max", title=f"{name}, one text of {tokens} tokens")
    summary = {}
    for figure in rounds[0]:
        values = [each[figure] for each in rounds]
        summary[figure] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        label = figure.replace("encoder,", "encoder beside its engine,")
        table.add_row(label, *(f"{value:,.0f}" for value in summary[figure].values()))
    Console().print(table)
    write(f"steps-{name}", f"python -m benchmarks.steps REPOSITORY {name}", {"tokens": tokens, "summary": summary})


def _microseconds(stage: Stage, request: Request, engine: Timed | None, before: Callable[[], None]) -> float:
    """The median of `CALLS` calls, what `engine` took left out."""
    taken = []
    for _ in range(CALLS):
        before()
        begun = time.perf_counter()
        ask(stage, request)
        taken.append(time.perf_counter() - begun - (engine.seconds if engine else 0.0))
    return statistics.median(taken) * 1e6


if __name__ == "__main__":
    main(*sys.argv[1:3])
