"""Which engine and precision a build gets: the fastest on this machine whose answers pass the gate."""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from tritext import contract
from tritext.bench.lengths import Lengths
from tritext.build.gate import Accuracy, Bounds, accuracy
from tritext.build.parity import encoder_request
from tritext.engines import ENGINES, engine_named
from tritext.engines.base import Artefact, Ingredients, Precision
from tritext.engines.batching import Sorted
from tritext.engines.layouts import AnyLayout, layout_of, layout_values
from tritext.engines.packing import Packed
from tritext.errors import BuildError, EngineError, ExportError, TritextError
from tritext.manifest import Example
from tritext.progress import Progress
from tritext.settings import EngineSettings, TaskSettings, Variant
from tritext.stages.base import Request
from tritext.stages.encoder import EncoderStage

AUTO: Final = "auto"
TENSORRT: Final = "tensorrt"
_PLANS: Final = ("fp16", "bf16", "fp32")  # in this order "auto" tries them for a plan, whose speed it cannot measure
_TIMED: Final = 64  # texts of mixed lengths in one timing
_LAID_OUT: Final = 128  # of those in which layouts are compared: several calls of each
_ROUNDS: Final = 3
_LAYOUT_ROUNDS: Final = 5  # layouts differ by a few per cent
_MARGIN: Final = 1.03  # a layout must be so much faster than the usual one; less is noise

_PACKED: Final[tuple[AnyLayout, ...]] = (
    Packed(128, 8),
    Packed(128, 4),
    Packed(64, 16),
    Packed(192, 6),
    Packed(256, 4),
)
_PACKED_ON_GPU: Final[tuple[AnyLayout, ...]] = (Packed(256, 32), Packed(256, 128), Packed(512, 32), Packed(128, 64))
_SORTED: Final[tuple[AnyLayout, ...]] = (Sorted(512), Sorted(256), Sorted(1024))

Spec = tuple[str, Precision]


@dataclass(slots=True)
class Candidate:
    """One engine in one precision; `tokens_per_second` on texts of mixed lengths, `megabytes` on the disk."""

    engine: str
    precision: Precision
    verdict: str = ""
    tokens_per_second: float | None = None
    megabytes: float | None = None
    accuracy: Accuracy | None = None
    chosen: bool = False
    artefact: Artefact | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Engine and precision."""
        return f"{self.engine} {self.precision}"

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        values = asdict(self)
        del values["artefact"]
        return values


def specs(engine: str, precision: str) -> list[Spec]:
    """The engines and precisions that `engine` and `precision`, or "auto", stand for; EngineError where none fits."""
    engines = [e for e in ENGINES.values() if e.automatic()] if engine == AUTO else [engine_named(engine)]
    found: list[Spec] = [(e.name, p) for e in engines for p in e.precisions if precision in {AUTO, p}]
    if (engine, precision) == (TENSORRT, AUTO):
        found = [(engine, p) for e, p in found if p in _PLANS]
    if not found:
        known = sorted({p for e in engines for p in e.precisions})
        raise EngineError(f"Engine {engine} has no precision {precision!r}; it has {', '.join(known)}.")
    return found


def is_contest(wanted: Sequence[Spec]) -> bool:
    """Whether `wanted` are judged by texts: fp32 alone is not, for parity holds it to rounding."""
    return [precision for _, precision in wanted] != ["fp32"]


class Contest:
    """Builds, times and judges candidates in `folder`, the encoder's version folder.

    `examples` are texts with the checkpoint's own logits, which none of the candidates was calibrated on.
    """

    def __init__(
        self, ingredients: Ingredients, folder: Path, settings: TaskSettings, *, per_text: bool,
        examples: Sequence[Example], bounds: Bounds, progress: Progress,
    ) -> None:  # fmt: skip
        self._ingredients, self._folder, self._settings = ingredients, folder, settings
        self._per_text, self._examples, self._bounds = per_text, examples, bounds
        self._progress = progress
        mixed = _mixed(examples, settings)
        self._timed, self._laid_out = mixed[:_TIMED], mixed

    def run(self, wanted: Sequence[Spec]) -> tuple[list[Candidate], Candidate]:
        """All candidates, the fastest first, and the one that is to serve. BuildError where none passes."""
        candidates = [Candidate(*spec) for spec in wanted]
        self._time({each.name: stage for each in candidates if (stage := self._build(each))}, candidates)
        candidates.sort(key=lambda each: -(each.tokens_per_second or 0.0))
        for candidate in candidates:
            if candidate.verdict:
                continue
            if self._is_chosen(candidate, candidates, "slower"):
                return candidates, candidate
        raise _none_passes(candidates)

    def _is_chosen(self, candidate: Candidate, candidates: Sequence[Candidate], others: str) -> bool:
        """Judge `candidate`; where it passes, that is said of it, and `others` of those that nothing was said of."""
        self._progress.step(f"Judge {candidate.name}")
        if not self._judge(candidate):
            self._progress.done(candidate.verdict)
            return False
        self._progress.done(_figures(candidate))
        candidate.chosen, candidate.verdict = True, "chosen"
        for each in candidates:
            each.verdict = each.verdict or others
        return True

    def _build(self, candidate: Candidate) -> EncoderStage | None:
        """The candidate's encoder; None, and why, where it cannot be had."""
        self._progress.step(f"Build {candidate.name}")
        engine = engine_named(candidate.engine)
        stage = None
        if lack := engine.lacks(candidate.precision):
            candidate.verdict = f"not here: {lack}"
        else:
            try:
                candidate.artefact = engine.build(self._ingredients, candidate.precision, self._folder)
                candidate.megabytes = _bytes(self._folder / part for part in candidate.artefact.parts) / 1e6
                stage = self.stage(self.variant(candidate))
                stage.process(self._timed[:1])  # some engines find out only now
            except (ExportError, EngineError) as error:
                candidate.verdict = f"fails: {error}"
        self._progress.done(candidate.verdict or f"{candidate.megabytes:,.1f} MB")
        return stage

    def _time(self, stages: Mapping[str, EncoderStage], candidates: Sequence[Candidate]) -> None:
        """Time all in turn, round by round, so that a drift of the machine's speed meets them alike."""
        self._progress.step("Time them", total=len(stages) * (_ROUNDS + 1))
        medians = [statistics.median(spent) for spent in self._times(list(stages.values()), self._timed, _ROUNDS)]
        tokens = sum(request.inputs[contract.INPUT_IDS.name].size for request in self._timed)
        speeds = {name: tokens / seconds for name, seconds in zip(stages, medians, strict=True)}
        for candidate in candidates:
            candidate.tokens_per_second = speeds.get(candidate.name)
        self._progress.done(", ".join(f"{name} {speed:,.0f} tokens/s" for name, speed in speeds.items()))

    def _times(self, stages: Sequence[EncoderStage], requests: Sequence[Request], rounds: int) -> list[list[float]]:
        """Seconds that each takes for `requests` in each round."""
        times: list[list[float]] = [[] for _ in stages]
        for number in range(rounds + 1):
            for stage, spent in zip(stages, times, strict=True):
                seconds = _seconds(stage, requests)
                if number:  # the first round warms up
                    spent.append(seconds)
                self._progress.advance()
        return times

    def variant(self, candidate: Candidate, layout: AnyLayout | None = None) -> Variant:
        """The settings that run `candidate`; its tolerance is still to be said."""
        if candidate.artefact is None:
            raise BuildError(f"{candidate.name} was not built.")
        values = layout_values(layout or self._layouts(uses_cores=True)[0])
        return Variant(candidate.engine, candidate.precision, candidate.artefact.file, values, float("inf"))

    def stage(self, variant: Variant) -> EncoderStage:
        """The encoder that runs `variant`."""
        inputs = self._settings.encoder_inputs
        settings = EngineSettings(
            inputs,
            self._settings.pad_id,
            self._per_text,
            (variant,),
            longest=self._settings.max_length,
            mask_id=self._settings.mask_id,
        )
        return EncoderStage.of(settings, variant, self._folder)

    def best_layout(self, candidate: Candidate) -> AnyLayout:
        """The fastest of the layouts for `candidate`, each compared with the usual one round by round."""
        layouts = self._layouts(uses_cores=self.stage(self.variant(candidate)).uses_cores)
        self._progress.step("Choose how to batch", total=len(layouts) * (_LAYOUT_ROUNDS + 1))
        stages = [self.stage(self.variant(candidate, layout)) for layout in layouts]
        usual, *others = self._times(stages, self._laid_out, _LAYOUT_ROUNDS)
        shares = [1.0, *(statistics.median(a / b for a, b in zip(each, usual, strict=True)) for each in others)]
        best = min(range(len(shares)), key=shares.__getitem__)
        best = best if _MARGIN * shares[best] < 1.0 else 0
        layout = layouts[best]
        self._progress.done(
            ", ".join(f"{key} {value}" for key, value in layout_values(layout).items() if key != "kind")
        )
        return layout

    def _layouts(self, *, uses_cores: bool) -> tuple[AnyLayout, ...]:
        """The usual one first. A GPU is idle under calls that fill a processor's caches."""
        if not self._ingredients.graph.packed:
            return _SORTED
        return _PACKED if uses_cores else _PACKED_ON_GPU

    def _judge(self, candidate: Candidate) -> bool:
        try:
            found = accuracy(self.stage(self.variant(candidate)), self._examples, self._settings)
        except TritextError as error:
            candidate.verdict = f"fails: {error}"
            return False
        candidate.accuracy = found
        candidate.verdict = found.fault(self._bounds) or ""
        return not candidate.verdict


class PlanContest(Contest):
    """For what will run elsewhere: judged by its answers alone, on the CPU, in the order given."""

    def run(self, wanted: Sequence[Spec]) -> tuple[list[Candidate], Candidate]:
        """The candidates, and the first of them that passes. BuildError where none does."""
        candidates = [Candidate(*spec) for spec in wanted]
        for candidate in candidates:
            if self._build(candidate) is None:
                continue
            if self._is_chosen(candidate, candidates, "not needed"):
                return candidates, candidate
        raise _none_passes(candidates)

    def _layouts(self, *, uses_cores: bool) -> tuple[AnyLayout, ...]:
        """The one that its shapes leave."""
        del uses_cores
        if self._ingredients.shapes is None:
            raise BuildError("A plan needs shapes.")
        return (layout_of(self._ingredients.shapes),)


def _none_passes(candidates: Sequence[Candidate]) -> BuildError:
    faults = "; ".join(f"{each.name}: {each.verdict}" for each in candidates)
    return BuildError(
        f"No way to run this model passes the gate ({faults}). Choose another --engine or --precision, give texts of "
        "your own with --texts, or accept less with --min-agreement and --max-drift."
    )


def _figures(candidate: Candidate) -> str:
    found = candidate.accuracy
    if found is None:
        return ""
    return f"labels agree in {found.agreement:.2%} of {found.decisions}, scores drift by {found.drift:.3f}"


def _mixed(examples: Sequence[Example], settings: TaskSettings) -> list[Request]:
    """Requests of mixed lengths, made of the examples' own tokens."""
    tokens = np.concatenate([example.input_ids for example in examples])
    lengths = Lengths().draw(_LAID_OUT, 0, 3, settings.max_length)
    tokens = np.resize(tokens, int(lengths.sum()))
    ends = np.cumsum(lengths)
    if settings.mask_id is not None:  # each has one, as a request must
        tokens[ends - 1 - lengths // 2] = settings.mask_id
    nothing = np.zeros(0, dtype=np.float32)
    return [
        encoder_request(Example("", None, ids, np.zeros_like(ids), nothing), settings)
        for ids in np.split(tokens, ends[:-1])
    ]


def _seconds(stage: EncoderStage, requests: Sequence[Request]) -> float:
    begun = time.perf_counter()
    stage.process(requests)
    return time.perf_counter() - begun


def _bytes(paths: Iterable[Path]) -> int:
    """The size of files and folders."""
    files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    return sum(file.stat().st_size for file in files if file.is_file())
