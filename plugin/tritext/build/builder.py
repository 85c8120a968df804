"""The whole build, step by step."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import count
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tritext import contract
from tritext.build import commit as commits
from tritext.build import defaults, record, thresholds
from tritext.build import parity as parities
from tritext.build.candidates import is_contest, specs
from tritext.build.checkpoint import Facts, inspect
from tritext.build.config import Plan, configurations, write_config
from tritext.build.encoders import Encoder, EncoderBuilder, finish, step_inputs
from tritext.build.export import input_names
from tritext.build.judging import judging_texts
from tritext.build.options import BuildOptions, BuildResult
from tritext.build.parity import Parity
from tritext.build.record import Inputs
from tritext.build.source import Source
from tritext.build.steps import settings_for, write_steps
from tritext.build.texts import parity_texts
from tritext.build.weights import load_model
from tritext.engines.base import PRECISIONS
from tritext.errors import BuildError, RepositoryError
from tritext.manifest import MANIFEST, Example, Manifest, write_reference
from tritext.naming import ROLES
from tritext.pipeline import Pipeline
from tritext.progress import Progress, Silent
from tritext.repository import BUILDS, CONFIG, KEPT, VERSION, BuiltModel, committed
from tritext.settings import TaskSettings
from tritext.tasks import task_named
from tritext.tasks.base import Task
from tritext.text.inputs import TextInput


def build(source: Source, options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Build the checkpoint at `source` into `options.repository` and commit it; BuildError says what is wrong."""
    return _Builder(source, options, progress or Silent()).run()


@dataclass(frozen=True, slots=True)
class _Made:
    """A build that is whole and judged, in its staging folder, but for configurations and record."""

    settings: TaskSettings
    encoder: Encoder
    examples: Sequence[Example]
    parity: Parity


class _Builder:
    def __init__(self, source: Source, options: BuildOptions, progress: Progress) -> None:
        self._source, self._options, self._progress = source, options, progress

    def run(self) -> BuildResult:
        options = self._options
        self._check_options()
        inputs, tokenizer = self._read()
        fingerprint = inputs.fingerprint()
        if not options.force and (known := self._already_built(fingerprint)):
            commits.tidy(options.repository, options.name)
            return BuildResult(known, known.manifest(), changed=False)
        with commits.transaction(options.repository, options.name) as staged:
            made = self._make(staged, inputs.facts, tokenizer)
            model = BuiltModel(options.repository, options.name, self._free_build(fingerprint))
            manifest = self._commit(staged, model, inputs, made)
        return BuildResult(model, manifest, changed=True)

    def _check_options(self) -> None:
        options = self._options
        commits.check_name(options.repository, options.name)
        specs(options.engine, options.precision)
        if not 1 <= options.instances <= 64:
            raise BuildError(f"--instances {options.instances} must be from 1 to 64.")
        if not 1 <= options.max_batch_size <= contract.MOST_ROWS:
            raise BuildError(f"--max-batch-size {options.max_batch_size} must be from 1 to {contract.MOST_ROWS} rows.")

    def _read(self) -> tuple[Inputs, PreTrainedTokenizerBase]:
        self._progress.step("Read the checkpoint")
        facts, tokenizer = inspect(self._source, self._options.overrides)
        # Refused before any work.
        thresholds.by_class(self._options.thresholds, facts)
        defaults.check(facts, tokenizer, self._options)
        _check_texts(task_named(facts.task), self._options.texts)
        self._check_room(facts, tokenizer)
        inputs = Inputs(facts, self._options, self._source.hashes())
        labels = [f"{len(facts.labels)} labels"] if task_named(facts.task).has_labels else []
        self._progress.done(", ".join([facts.architecture, facts.task, *labels]))
        return inputs, tokenizer

    def _check_room(self, facts: Facts, tokenizer: PreTrainedTokenizerBase) -> None:
        options, task = self._options, task_named(facts.task)
        parities.check_room(tokenizer, facts, task.references(_parity_texts(task), tokenizer.mask_token))
        if is_contest(specs(options.engine, options.precision)):
            _, judged = judging_texts(facts, tokenizer, options)
            parities.check_room(tokenizer, facts, judged, "Give other ones with --texts, or")

    def _already_built(self, fingerprint: str) -> BuiltModel | None:
        """The committed model, if it was made of the same inputs and is whole."""
        try:
            model = committed(self._options.repository, self._options.name)
            if model is None or model.manifest().fingerprint != fingerprint:
                return None
        except RepositoryError:  # damaged: it is built again
            return None
        self._progress.step("Check the build that is there")
        damage = model.damage()
        self._progress.done(f"not as it was built: {', '.join(damage)}" if damage else "nothing changed")
        return None if damage else model

    def _free_build(self, fingerprint: str) -> str:
        """Eight hex digits, the same for the same inputs, unless a build is there that has them."""
        ids = (sha256(f"{fingerprint} {number}".encode()).hexdigest()[:8] for number in count())
        return next(each for each in ids if commits.is_free(self._options.repository, self._options.name, each))

    def _make(self, staged: Path, facts: Facts, tokenizer: PreTrainedTokenizerBase) -> _Made:
        options, task = self._options, task_named(facts.task)
        folders = {role: staged / role / VERSION for role in ROLES}
        for folder in folders.values():
            folder.mkdir(parents=True)
        self._progress.step("Load the weights")
        model = load_model(facts)
        self._progress.done(f"{model.num_parameters() / 1e6:.1f} M parameters")
        # Before the reference is asked for, which sets the tokenizer's side.
        settings = settings_for(facts, tokenizer, input_names(model, tokenizer), options)
        texts = task.references(_parity_texts(task), tokenizer.mask_token)
        self._progress.step("Ask the checkpoint for reference", total=len(texts))
        examples = parities.reference(model, tokenizer, facts, texts, self._progress.advance)
        self._progress.done(f"{len(texts)} texts")
        scratch = staged / "scratch"
        scratch.mkdir()
        encoders = EncoderBuilder(model, tokenizer, facts, options, folders["encoder"], scratch, self._progress)
        graph = encoders.export(settings, examples)
        settings = replace(settings, encoder_inputs=step_inputs(graph))
        encoder = encoders.make(graph, settings)
        settings = replace(settings, lengths=encoder.lengths, most_rows=encoder.most_rows)
        shutil.rmtree(scratch)
        write_steps(staged, settings, tokenizer, encoder.artefact)
        self._progress.step("Compare with the checkpoint")
        encoder, parity = self._compare(folders, encoder, settings, examples)
        self._progress.done(_verdict(parity))
        return _Made(settings, encoder, examples, parity)

    def _compare(
        self, folders: Mapping[str, Path], encoder: Encoder, settings: TaskSettings, examples: Sequence[Example]
    ) -> tuple[Encoder, Parity]:
        """The whole pipeline's answers, and the encoder that knows how far it may be from them."""
        precision = encoder.variant.precision
        finish(encoder, folders["encoder"], (), dict.fromkeys(PRECISIONS, math.inf))
        parity = parities.compare(Pipeline.from_folders(**folders), examples, settings, precision)
        scale = max(1.0, *(float(abs(example.logits).max()) for example in examples))
        tolerances = {known: share * scale for known, share in parities.TOLERANCE.items()}
        return finish(encoder, folders["encoder"], examples, tolerances), parity

    def _commit(self, staged: Path, model: BuiltModel, inputs: Inputs, made: _Made) -> Manifest:
        self._progress.step("Commit")
        options, encoder = self._options, made.encoder
        plan = Plan(
            model.name, model.build, made.settings, encoder.artefact, encoder.max_batch_size(options.max_batch_size),
            options.instances, encoder.recipe,
        )  # fmt: skip
        configs = configurations(plan)
        for role in encoder.roles:
            write_config(configs[role], staged / role / CONFIG)
        ensemble = staged / commits.ENSEMBLE
        folder = ensemble / BUILDS / model.build
        (ensemble / VERSION).mkdir(parents=True)
        (ensemble / VERSION / KEPT).touch()
        folder.mkdir(parents=True)
        for place in (ensemble, folder):
            write_config(configs["ensemble"], place / CONFIG)
        write_reference(folder, made.examples)
        files = commits.hashes(staged, model)
        manifest = record.manifest(model, inputs, made.encoder, made.parity, files, self._before())
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        commits.commit(staged, model)
        self._progress.done(f"{model.repository / model.name}, build {model.build}")
        return manifest

    def _before(self) -> str | None:
        try:
            model = committed(self._options.repository, self._options.name)
        except RepositoryError:
            return None
        return model.build if model else None


def _check_texts(task: Task, texts: Sequence[TextInput]) -> None:
    if not (task.expands or len(task.texts) > 1) and any(isinstance(text, tuple) for text in texts):
        raise BuildError(
            f"The texts to choose a precision by have pairs, and {task.name} takes single texts. Leave the second ones "
            "out, those in text_pair."
        )


def _parity_texts(task: Task) -> list[TextInput]:
    """Ours. Where the first text of a pair is never cut, those of ours leave no room: the second ones stand alone."""
    texts = parity_texts(pairs=len(task.texts) > 1)
    is_kept = task.cut == "only_second"
    return [text[1] if is_kept and isinstance(text, tuple) else text for text in texts]


def _verdict(parity: Parity) -> str:
    labels = f", labels {parity.labels_agree}/{parity.labels}" if parity.labels else ""
    return (
        f"{parity.texts} texts, ids identical, logits within {parity.max_logit_difference:.1e} "
        f"(allowed {parity.tolerance['logits']:.1e}){labels}"
    )
