"""The encoder step of a build: exported, made by one engine or the best of several, with a fallback beside it."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tritext import contract
from tritext.build import parity
from tritext.build.architectures import check_padded
from tritext.build.candidates import TENSORRT, Candidate, Contest, PlanContest, Spec, is_contest, specs
from tritext.build.checkpoint import Facts
from tritext.build.export import export, input_names
from tritext.build.judging import judging_texts
from tritext.build.options import BuildOptions
from tritext.engines import engine_named
from tritext.engines.base import Artefact, Graph, Ingredients, IntArray, Precision
from tritext.engines.batching import Sorted, Texts
from tritext.engines.fixed import Bucketed, PackedCalls
from tritext.engines.layouts import AnyLayout, layout_of, layout_values
from tritext.engines.packing import Packed
from tritext.engines.plan import Recipe
from tritext.engines.shapes import Buckets, CallShapes
from tritext.errors import EngineError, ExportError, TritextError
from tritext.manifest import CHECK, Example, write_reference
from tritext.naming import ENGINE_ROLE, ROLES, sibling
from tritext.progress import Progress
from tritext.settings import EngineSettings, TaskSettings, Variant
from tritext.stages.encoder import EncoderStage
from tritext.tasks import task_named
from tritext.text.inputs import TextInput

_EXACT: Final = "fp32"  # needs no gate: parity holds it to rounding
_CHECKED: Final = 6  # texts that the encoder asks itself when it is loaded
_LONG_ROW: Final = 1024  # tokens
_PLAN_ROWS: Final = 64  # of a batch that Triton merges for a plan; a row may have all the tokens that the model takes


C = TypeVar("C", bound=Contest)


@dataclass(frozen=True, slots=True)
class Encoder:
    """What was made: the `artefact` that serves, all variants in order, and how it was chosen."""

    artefact: Artefact
    settings: EngineSettings
    candidates: Sequence[Candidate]
    recipe: Recipe | None = None  # of its TensorRT plan, where it is one

    @property
    def roles(self) -> tuple[str, ...]:
        """Of the steps that a build with this encoder has."""
        return (*ROLES, ENGINE_ROLE) if self.artefact.is_own_model else ROLES

    def max_batch_size(self, wanted: int) -> int:
        """Of a request, where `wanted` was asked for: a native plan takes no more than it was built for."""
        shapes = self.recipe.plan_shapes() if self.recipe else None
        return min(wanted, shapes.rows) if isinstance(shapes, Buckets) else wanted

    @property
    def most_rows(self) -> int:
        """That a request may become on its way to the encoder."""
        return self.max_batch_size(contract.MOST_ROWS)

    @property
    def lengths(self) -> tuple[int, ...]:
        """What the tokenizer must pad requests up to; nothing where the encoder takes any length."""
        shapes = self.recipe.plan_shapes() if self.recipe else None
        return shapes.lengths if isinstance(shapes, Buckets) else ()

    @property
    def variant(self) -> Variant:
        """The one that serves where the machine is like this one."""
        return self.settings.variants[0]


class EncoderBuilder:
    """Makes the encoder of one checkpoint in `folder`, its version folder; `scratch` is for what does not stay."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts, options: BuildOptions,
        folder: Path, scratch: Path, progress: Progress,
    ) -> None:  # fmt: skip
        self._model, self._tokenizer, self._facts, self._options = model, tokenizer, facts, options
        self._folder, self._scratch, self._progress = folder, scratch, progress
        self._per = task_named(facts.task).per
        self._per_text = self._per != "token"

    def export(self, settings: TaskSettings, examples: Sequence[Example]) -> Graph:
        """The checkpoint as a packed graph, or as a padded one where packing does not give its answers.

        `settings` and `examples` are to tell. Which tensors the graph takes is in the result.
        """
        self._progress.step("Export to ONNX")
        fits = self._options.engine != TENSORRT or self._options.batching == "packed"
        if fits:
            try:
                graph = self._export("fp32", self._scratch / "packed" / "model.onnx", packed=True)
                fits = self._is_faithful(graph, settings, examples)
            except ExportError:
                fits = False
        if not fits:
            check_padded(self._facts.model_type, "Leave --batching at packed.")
            graph = self._export("fp32", self._scratch / "padded" / "model.onnx", packed=False)
        self._progress.done(("several texts a row: " if graph.packed else "one text a row: ") + ", ".join(graph.inputs))
        return graph

    def _export(self, precision: Precision, path: Path, *, packed: bool) -> Graph:
        names = input_names(self._model, self._tokenizer)
        return export(self._model, names, self._per, path, packed=packed, precision=precision)

    def _is_faithful(self, graph: Graph, settings: TaskSettings, examples: Sequence[Example]) -> bool:
        """Whether the packed `graph` gives the answers of `examples` however they lie in its rows."""
        wanted = engine_named(self._options.engine) if self._options.engine in {"openvino", "onnxruntime"} else None
        engine = wanted or engine_named("openvino")
        folder = self._scratch / "faithful"
        folder.mkdir()
        try:
            artefact = engine.build(Ingredients(graph, self._model), _EXACT, folder)
            # Rows are to be longer than any text, which models that look up positions by row do not survive.
            layout = Packed(row_length=min(2 * settings.max_length, _LONG_ROW))
            variant = Variant(engine.name, _EXACT, artefact.file, layout_values(layout), float("inf"))
            kept = replace(settings, encoder_inputs=step_inputs(graph))
            engine_settings = EngineSettings(
                kept.encoder_inputs, kept.pad_id, self._per_text, (variant,), mask_id=kept.mask_id
            )
            stage = EncoderStage.of(engine_settings, variant, folder)
            answers = stage.process([parity.encoder_request(example, kept) for example in examples])
        except (TritextError, RuntimeError):  # the latter from an engine that meets a graph it cannot run
            return False
        finally:
            shutil.rmtree(folder)
        scale = max(1.0, *(float(np.abs(example.logits).max(initial=0.0)) for example in examples))
        return all(
            not isinstance(answer, TritextError)
            and answer[contract.LOGITS.name][0].shape == example.logits.shape
            and bool(np.abs(answer[contract.LOGITS.name][0] - example.logits).max(initial=0.0)
                     <= parity.TOLERANCE[_EXACT] * scale)
            for answer, example in zip(answers, examples, strict=True)
        )  # fmt: skip

    def make(self, graph: Graph, settings: TaskSettings) -> Encoder:
        """Build what was asked for, or the best of it, and its fallback; EngineError, BuildError: what is wrong."""
        wanted = specs(self._options.engine, self._options.precision)
        if self._options.engine == TENSORRT:
            return self._planned(graph, settings, wanted)
        if not is_contest(wanted):
            return self._plain(graph, settings, wanted[0])
        contest, ingredients, folder = self._contest(Contest, graph, settings, None)
        candidates, best = contest.run(wanted)
        variants = [contest.variant(best, contest.best_layout(best))]
        artefacts = [_made(best)]
        if best.precision != _EXACT and _EXACT in engine_named(best.engine).precisions:
            built = {(each.engine, each.precision): each.artefact for each in candidates}
            exact = built.get((best.engine, _EXACT)) or engine_named(best.engine).build(ingredients, _EXACT, folder)
            artefacts.append(exact)
            variants.append(replace(variants[0], precision=_EXACT, artefact=exact.file))
        for part in dict.fromkeys(part for artefact in artefacts for part in artefact.parts):
            shutil.move(folder / part, self._folder / part)
        return Encoder(artefacts[0], self._settings(settings, variants), candidates)

    def _contest(
        self, kind: type[C], graph: Graph, settings: TaskSettings, shapes: CallShapes | Buckets | None
    ) -> tuple[C, Ingredients, Path]:
        """A contest on the user's texts or ours, what its candidates are made of, and the folder that has them."""
        calibrating, judged = judging_texts(self._facts, self._tokenizer, self._options)
        calls = list(self._calls(calibrating, settings, graph))
        ingredients = Ingredients(
            graph, self._model, calls, partial(self._export, packed=graph.packed), shapes, self._options.plan
        )
        folder = self._scratch / "candidates"
        folder.mkdir()
        self._progress.step("Ask the checkpoint itself", total=len(judged))
        examples = parity.reference(self._model, self._tokenizer, self._facts, judged, self._progress.advance)
        self._progress.done(f"{len(examples)} texts of {'yours' if self._options.texts else 'ours'}")
        contest = kind(
            ingredients, folder, settings, per_text=self._per_text, examples=examples, bounds=self._options.bounds,
            progress=self._progress,
        )  # fmt: skip
        return contest, ingredients, folder

    def _planned(self, graph: Graph, settings: TaskSettings, wanted: Sequence[Spec]) -> Encoder:
        """The graph and the recipe of a TensorRT plan, judged on the CPU; the plan is made where it is to serve."""
        task = task_named(self._facts.task)
        if (self._per == "mask" or task.expands) and not graph.packed:
            cure = ": leave --batching at packed, or" if self._options.batching == "buckets" else (
                ", and this checkpoint's answers are not the same in one:"
            )  # fmt: skip
            raise EngineError(
                f"{task.name} with TensorRT needs a graph that takes several texts a row{cure} choose another --engine."
            )
        longest = self._facts.max_length
        rows = min(_PLAN_ROWS, self._options.max_batch_size)
        shapes = CallShapes.up_to(longest) if graph.packed else Buckets.up_to(longest, rows)
        if not graph.packed and (task.windows or rows < self._options.max_batch_size):
            what = "texts, or windows of long ones" if task.windows else "texts"
            self._progress.tell(f"A request to this model takes at most {rows} {what}: its plan is built for no more.")
        candidates: Sequence[Candidate] = ()
        if not is_contest(wanted):
            folder = self._scratch / "candidates"
            folder.mkdir()
            self._progress.step("Write the graph: fp32")
            made = engine_named(TENSORRT).build(
                Ingredients(graph, self._model, shapes=shapes, plan=self._options.plan), _EXACT, folder
            )
            self._progress.done()
        else:
            contest, _, folder = self._contest(PlanContest, graph, settings, shapes)
            candidates, best = contest.run(wanted)
            made = _made(best)
        target = sibling(self._folder, ENGINE_ROLE) if made.is_own_model else self._folder
        target.mkdir(parents=True, exist_ok=True)
        names = tuple(Path(part).name for part in made.parts)
        for part, name in zip(made.parts, names, strict=True):
            shutil.move(folder / part, target / name)
        recipe = Recipe.read(target)
        layout = layout_values(layout_of(shapes))
        variant = Variant(TENSORRT, recipe.precision, recipe.graph, layout, float("inf"))
        artefact = replace(made, file=recipe.graph, parts=names)
        return Encoder(artefact, self._settings(settings, [variant]), candidates, recipe)

    def _plain(self, graph: Graph, settings: TaskSettings, spec: Spec) -> Encoder:
        engine = engine_named(spec[0])
        self._progress.step(f"Build the engine: {spec[0]} {spec[1]}")
        artefact = engine.build(Ingredients(graph, self._model), spec[1], self._folder)
        layout = layout_values(Packed() if graph.packed else Sorted())
        variant = Variant(*spec, artefact.file, layout, float("inf"))
        self._progress.done(f"{sum(path.stat().st_size for path in self._folder.rglob('*')) / 1e6:.1f} MB")
        return Encoder(artefact, self._settings(settings, [variant]), ())

    def _settings(self, settings: TaskSettings, variants: Sequence[Variant]) -> EngineSettings:
        return EngineSettings(
            settings.encoder_inputs,
            settings.pad_id,
            self._per_text,
            tuple(variants),
            longest=settings.max_length,
            mask_id=settings.mask_id,
        )

    def _calls(
        self, texts: Sequence[TextInput], settings: TaskSettings, graph: Graph
    ) -> Iterator[Mapping[str, IntArray]]:
        """The engine calls that would run `texts`."""
        encoded = [self._tokenizer([text], truncation=True, max_length=self._facts.max_length) for text in texts]
        nothing = np.zeros(0, dtype=np.float32)
        requests = []
        for each in encoded:
            ids = np.array(each["input_ids"][0], dtype=np.int32)
            if not ids.size:
                continue
            types = np.array(each.get("token_type_ids", [np.zeros_like(ids)])[0], dtype=np.int32)
            example = Example("", None, ids, types, nothing)
            requests.append(parity.encoder_request(example, settings).inputs)
        texts_of_all = Texts.of(requests, settings.encoder_inputs, settings.mask_id)
        layout: AnyLayout = Packed(rows=1) if graph.packed else Sorted(1)
        if self._options.engine == TENSORRT:  # ONNX Runtime's histograms want calls of one shape
            longest = max(128, -(-int(texts_of_all.lengths.max()) // 8) * 8)
            layout = PackedCalls(((1, longest),)) if graph.packed else Bucketed((longest,), 1)
        for call in layout.calls(texts_of_all, settings.pad_id, per_text=self._per_text):
            yield {name: array for name, array in call.arrays.items() if name in graph.inputs}


def finish(encoder: Encoder, folder: Path, examples: Sequence[Example], tolerances: Mapping[str, float]) -> Encoder:
    """Write into the encoder's `folder` what it checks itself with; `tolerances` by precision.

    A precision that has none may be twice as far off as it is here, on the same few texts, or as bf16 may.
    """
    shortest = sorted(examples, key=lambda example: example.input_ids.size)
    check = [each for each in shortest if each.input_ids.size > 2][:_CHECKED]
    write_reference(folder, check, CHECK)
    variants = []
    for variant in encoder.settings.variants:
        tolerance = tolerances.get(variant.precision)
        if tolerance is None:
            here = max(EncoderStage.of(encoder.settings, variant, folder).differences(check), default=0.0)
            tolerance = max(2 * here, tolerances["bf16"])
        variants.append(replace(variant, tolerance=tolerance))
    settings = replace(encoder.settings, variants=tuple(variants))
    settings.write(folder)
    return replace(encoder, settings=settings)


def step_inputs(graph: Graph) -> tuple[str, ...]:
    """The tensors that the encoder step takes: the graph's own, and the mask, which tells where a row ends."""
    mask = contract.ATTENTION_MASK.name
    return tuple(t.name for t in contract.ENCODER_INPUTS if t.name == mask or t.name in graph.inputs)


def _made(candidate: Candidate) -> Artefact:
    if candidate.artefact is None:
        raise EngineError(f"{candidate.name} was not built.")
    return candidate.artefact


def as_json(candidates: Sequence[Candidate]) -> tuple[dict[str, Any], ...]:
    """For the manifest."""
    return tuple(candidate.as_json() for candidate in candidates)
