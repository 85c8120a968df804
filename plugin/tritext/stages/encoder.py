"""The second step: token ids in, logits out. Requests of every length are taken together."""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from tritext import admission, contract
from tritext.admission import Meter
from tritext.deadlines import Deadlines
from tritext.engines import engine_named
from tritext.engines.base import Runner, RunnerOptions
from tritext.engines.batching import Call, Layout, Texts
from tritext.engines.half import Half, halved
from tritext.engines.layouts import layout_from
from tritext.engines.machine import streams, threads
from tritext.engines.turns import NoTurn, turn
from tritext.errors import EngineError, Overloaded, RepositoryError, TritextError
from tritext.manifest import CHECK, Example, read_reference
from tritext.naming import ENGINE_ROLE, sibling
from tritext.settings import EngineSettings, Variant
from tritext.stages.base import (
    COMPUTED_TOKENS,
    ENCODER_CALLS,
    GIVEN_UP,
    REFUSED_EXPIRED,
    TEXTS,
    TOKENS,
    Answer,
    Request,
    zeros,
)
from tritext.stages.direct import check_tokens

# Calls of a plan's own model at a time: two instances of it compute or copy, one call waits for them.
_IN_FLIGHT: Final = 3

# As Triton says it of a request that is overdue in a queue with a policy.
_EXPIRED: Final = "Request timeout expired: it waited for the encoder for longer than its caller gave it."

_log: Final = logging.getLogger("tritext")


class EncoderStage:
    """Lays the texts of all requests out in engine calls that waste little, and runs the engine on each."""

    def __init__(self, settings: EngineSettings, runner: Runner, layout: Layout, streams: int = 1) -> None:
        self._settings = settings
        self._runner = runner
        self._layout = layout
        self.is_remote = getattr(runner, "is_remote", False)
        self._streams = _IN_FLIGHT if self.is_remote else streams
        self._pool = ThreadPoolExecutor(self._streams)  # starts its threads when they are first needed
        self._turn = turn() if runner.uses_cores else NoTurn()
        self.uses_cores = runner.uses_cores
        self.half: Half | None = None
        self.counts = zeros(TEXTS, TOKENS, COMPUTED_TOKENS, ENCODER_CALLS, REFUSED_EXPIRED)
        self.meter: Meter | None = None
        self.deadlines: Deadlines | None = None

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Make the stage from its version folder: ``settings.json``, ``check.npz`` and the engines' artefacts.

        Takes the first variant that this machine has the instructions for and that gives the reference's answers;
        EngineError where there is none.
        """
        settings = EngineSettings.read(folder)
        check = read_reference(folder, CHECK)
        faults = []
        for variant in settings.variants:
            name = f"{variant.engine} {variant.precision}"
            try:
                stage = cls.of(settings, variant, folder)
                if not stage.is_remote:  # `serve` asks it, once everything is loaded
                    stage.check(check, variant.tolerance)
            except EngineError as error:
                faults.append(f"{name}: {error}")
                continue
            stage.half = cls._half(settings, variant, folder)
            # Not before: nobody waits for a check.
            stage.meter, stage.deadlines = admission.meter(folder), admission.deadlines(folder)
            if faults:
                _log.warning("%s runs as %s here, not as built. %s", folder.parent.name, name, " ".join(faults))
            return stage
        raise EngineError(f"No engine of this model runs on this machine. {' '.join(faults)}")

    @classmethod
    def _half(cls, settings: EngineSettings, variant: Variant, folder: Path) -> Half | None:
        """The engine of `variant` on half of the cores, which has to give the reference's answers too."""
        options = halved(engine_named(variant.engine), _options(variant))
        if options is None:
            return None

        def make() -> Runner:
            stage = cls.of(settings, variant, folder, options)
            stage.check(read_reference(folder, CHECK), variant.tolerance)
            return stage._runner

        return Half(make)

    @classmethod
    def of(cls, settings: EngineSettings, variant: Variant, folder: Path, options: RunnerOptions | None = None) -> Self:
        """Make the stage that runs `variant`, with the machine's `options`; EngineError where this machine cannot."""
        engine = engine_named(variant.engine)
        options = options or _options(variant)
        if lack := engine.lacks(options.precision):
            raise EngineError(f"It cannot run here: {lack}.")
        try:
            layout = layout_from(variant.layout)
        except (KeyError, TypeError, ValueError) as error:
            raise RepositoryError(f"{folder} has a layout that cannot be read. Build the model again.") from error
        path = folder / variant.artefact
        of_its_own = sibling(folder, ENGINE_ROLE) / variant.artefact
        if of_its_own.exists():  # the engine is a model of its own
            path = of_its_own
        return cls(settings, engine.runner(path, options), layout, options.streams)

    def check(self, examples: Sequence[Example], tolerance: float) -> None:
        """EngineError where a logit is farther than `tolerance` from that of `examples`."""
        for example, difference in zip(examples, self.differences(examples), strict=True):
            if not difference <= tolerance:  # a NaN is a mismatch too
                text = example.text if example.pair is None else f"{example.text} | {example.pair}"
                shown = text if len(text) <= 60 else text[:59] + "…"
                raise EngineError(
                    f"It is wrong on this machine: for the text {shown!r} its logits differ by {difference:.3g} from "
                    f"the checkpoint's, and {tolerance:.3g} is allowed."
                )

    def differences(self, examples: Sequence[Example]) -> list[float]:
        """How far a logit is from the one of each of `examples`, asked together; infinite where the shapes differ."""
        if not examples:
            return []
        answers = self.process([Request(example.encoder_arrays(self._settings.inputs)) for example in examples])
        self.counts.update(dict.fromkeys(self.counts, 0.0))
        logits = [{} if isinstance(answer, TritextError) else answer for answer in answers]
        return [
            _difference(example.logits, each.get(contract.LOGITS.name))
            for example, each in zip(examples, logits, strict=True)
        ]

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        """Logits [N, C] or [N, L, C] for each request, padded as its ids were; [N, M, C] where only M are picked."""
        for request in requests:
            check_tokens(request, self._settings)
        refusals = [self._refusal(request) for request in requests]
        timely = [request for request, refusal in zip(requests, refusals, strict=True) if refusal is None]
        if self.meter:
            self.meter.begin(
                sum([np.count_nonzero(request.inputs[contract.ATTENTION_MASK.name]) for request in requests])
            )
        try:
            logits = iter(self._logits(timely))
        finally:
            if self.meter:
                self.meter.end()
        return [refusal or next(logits) for refusal in refusals]

    def _refusal(self, request: Request) -> Overloaded | None:
        """Where nobody waits for its answer any more."""
        if request.is_given_up:
            return Overloaded(GIVEN_UP, misses_deadline=True)
        if self.deadlines and request.timeout and self.deadlines.passed(request.known_as):
            return Overloaded(_EXPIRED, misses_deadline=True)
        return None

    def _logits(self, requests: Sequence[Request]) -> list[Answer]:
        if not requests:
            return []
        settings = self._settings
        arrays = [request.inputs for request in requests]
        texts = Texts.of(arrays, settings.inputs, settings.mask_id, settings.longest)
        found = self._results(texts)
        self.counts[TEXTS] += len(texts)
        self.counts[TOKENS] += texts.tokens
        answers: list[Answer] = []
        start = 0
        for request in requests:
            ids = request.inputs[contract.INPUT_IDS.name]
            mine = found[start : start + len(ids)]
            if settings.mask_id is None:
                logits = _stacked([rows[0] for rows in mine], ids.shape)
            else:
                picked = [np.stack([row.reshape(-1) for row in rows]) for rows in mine]
                logits = _stacked(picked, (len(ids), max(map(len, picked))))
            answers.append({contract.LOGITS.name: logits})
            start += len(ids)
        return answers

    def _results(self, texts: Texts) -> list[list[NDArray[np.float32]]]:
        """The logits of each of `texts`: one array, [C] or [l, C], or one for each token that is picked."""
        results: list[list[NDArray[np.float32]]] = [[] for _ in range(len(texts))]
        sizes = texts.lengths.tolist()
        calls = self._layout.calls(
            texts, self._settings.pad_id, per_text=self._settings.per_text, brief=self._turn.is_greedy
        )
        for call, output in self._run(calls):
            for index, logits in call.logits(output):
                results[index].append(logits)
            if self.meter:
                self.meter.progress(sum([sizes[index] for index in set(call.indices)]))
            self.counts[ENCODER_CALLS] += 1
            self.counts[COMPUTED_TOKENS] += call.computed
        return results

    def _run(self, calls: Iterator[Call]) -> Iterator[tuple[Call, NDArray[np.float32]]]:
        """Run `calls`, as many at once as the engine has streams, and let other encoders have their turns between."""
        if self.is_remote:
            yield from self._overlapped(calls)
            return
        while some := list(islice(calls, self._streams)):
            arrays = [call.arrays for call in some]
            run = map if len(some) == 1 else self._pool.map
            half = self.half.runner() if self.half and self._turn.prefers_half() else None
            with self._turn.beside() if half else self._turn:
                outputs = list(run((half or self._runner).run, arrays))
            yield from zip(some, outputs, strict=True)

    def _overlapped(self, calls: Iterator[Call]) -> Iterator[tuple[Call, NDArray[np.float32]]]:
        """Run `calls` elsewhere, always as many as there are streams, while the next one is laid out here."""
        running: deque[tuple[Call, Future[NDArray[np.float32]]]] = deque()
        for call in calls:
            running.append((call, self._pool.submit(self._runner.run, call.arrays)))
            if len(running) == self._streams:
                done, output = running.popleft()
                yield done, output.result()
        for done, output in running:
            yield done, output.result()


def _options(variant: Variant) -> RunnerOptions:
    """How `variant` runs on this machine; EngineError where its engine knows no such precision."""
    engine = engine_named(variant.engine)
    precision = next((known for known in engine.precisions if known == variant.precision), None)
    if precision is None:
        raise EngineError(f"Engine {engine.name} has no {variant.precision}.")
    return RunnerOptions(precision, threads(), streams(), variant.options)


def _difference(expected: NDArray[np.float32], got: NDArray[np.float32] | None) -> float:
    if got is None or got[0].shape != expected.shape:
        return float("inf")
    return float(np.abs(got[0] - expected).max(initial=0.0))


def _stacked(rows: Sequence[NDArray[np.float32]], shape: tuple[Any, ...]) -> NDArray[np.float32]:
    """Stack rows [C], or rows [l, C] of their own lengths, the latter to the length of the ids' `shape`."""
    if rows[0].ndim == 1:
        return np.array(rows)
    stacked = np.zeros((*shape, rows[0].shape[-1]), dtype=np.float32)
    for index, row in enumerate(rows):
        size = min(len(row), shape[1])
        stacked[index, :size] = row[:size]
    return stacked
