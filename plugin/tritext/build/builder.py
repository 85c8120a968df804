"""The whole build, step by step."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import transformers
from transformers import PreTrainedTokenizerBase
from tritonclient.grpc.model_config_pb2 import ModelConfig

import tritext
from tritext import parameters
from tritext.build import commit as commits
from tritext.build import parity as parities
from tritext.build.checkpoint import Facts, Overrides, inspect, load_model
from tritext.build.config import Plan, configurations, templates, write_config
from tritext.build.export import export, input_names
from tritext.build.parity import Parity
from tritext.build.progress import Progress, Silent
from tritext.build.source import Source
from tritext.build.texts import parity_texts
from tritext.contract import TEXT_PAIR
from tritext.engines import engine_named
from tritext.engines.base import Artefact, Precision
from tritext.errors import CheckpointError, EngineError
from tritext.manifest import MANIFEST, Example, Manifest, write_reference
from tritext.pipeline import Pipeline
from tritext.repository import CONFIG, ROLES, VERSION, BuiltModel, committed, step_name
from tritext.settings import TOKENIZER, EngineSettings, TaskSettings
from tritext.tasks import task_named

_VERSIONED: Final = ("tritext", "torch", "transformers", "tokenizers", "onnx", "numpy")


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Everything a user can choose. `defaults` are request parameters' defaults, as they would be sent."""

    name: str
    repository: Path
    engine: str = "openvino"
    precision: Precision = "fp32"
    max_batch_size: int = 256
    overrides: Overrides = field(default_factory=Overrides)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False


@dataclass(frozen=True, slots=True)
class BuildResult:
    """`changed` is False where the very same build was already committed."""

    model: BuiltModel
    manifest: Manifest
    changed: bool


def build(source: Source, options: BuildOptions, progress: Progress | None = None) -> BuildResult:
    """Build the checkpoint at `source` into `options.repository` and commit it; BuildError says what is wrong."""
    _quiet_transformers()
    return _Builder(source, options, progress or Silent()).run()


class _Builder:
    def __init__(self, source: Source, options: BuildOptions, progress: Progress) -> None:
        self._source, self._options, self._progress = source, options, progress

    def run(self) -> BuildResult:
        options = self._options
        self._check_options()
        self._progress.step("Read the checkpoint")
        facts, tokenizer = inspect(self._source, options.overrides)
        parameters.parse(task_named(facts.task).parameters, {}, options.defaults)
        files = self._source.hashes()
        build = _build_id(files, facts, options)
        self._progress.done(f"{facts.architecture}, {facts.task}, {len(facts.labels)} labels")
        if not options.force and (known := self._already_built(build)):
            return BuildResult(known, known.manifest(), changed=False)
        with commits.staging(options.repository) as staged:
            manifest = self._build(staged, build, facts, tokenizer, files)
        return BuildResult(BuiltModel(options.repository, options.name, build), manifest, changed=True)

    def _check_options(self) -> None:
        options = self._options
        commits.check_name(options.repository, options.name)
        precisions = engine_named(options.engine).precisions
        if options.precision not in precisions:
            raise EngineError(f"Engine {options.engine} has no {options.precision}; it has {', '.join(precisions)}.")
        if not 1 <= options.max_batch_size <= 65536:
            raise CheckpointError(f"--max-batch-size {options.max_batch_size} must be from 1 to 65536 rows.")

    def _already_built(self, build: str) -> BuiltModel | None:
        model = committed(self._options.repository, self._options.name)
        if model is None or model.build != build:
            return None
        self._progress.step("Check the build that is there")
        whole = all((model.repository / path).is_file() for path in model.manifest().files)
        self._progress.done("nothing changed" if whole else "files are missing: building again")
        return model if whole else None

    def _build(
        self, staged: Path, build: str, facts: Facts, tokenizer: PreTrainedTokenizerBase, files: dict[str, str]
    ) -> Manifest:
        self._progress.step("Load the weights")
        model = load_model(facts)
        self._progress.done(f"{model.num_parameters() / 1e6:.1f} M parameters")
        self._progress.step("Export to ONNX")
        logits = task_named(facts.task).logits
        graph = export(model, input_names(model, tokenizer), logits, staged / "model.onnx")
        self._progress.done(", ".join(graph.inputs))
        folders = {role: staged / role / VERSION for role in (*ROLES, commits.RECORD)}
        for role in ROLES:
            folders[role].mkdir(parents=True)
        engine = engine_named(self._options.engine)
        self._progress.step(f"Build the engine: {engine.name} {self._options.precision}")
        artefact = engine.build(graph, self._options.precision, folders["encoder"])
        settings = _settings(facts, tokenizer, graph.inputs, self._options)
        self._write_stages(folders, settings, artefact, tokenizer)
        self._progress.done(_megabytes(folders["encoder"]))
        texts = parity_texts(pairs=TEXT_PAIR in task_named(facts.task).inputs)
        self._progress.step("Compare with the checkpoint", total=len(texts))
        examples = parities.reference(model, tokenizer, facts, texts, self._progress.advance)
        pipeline = Pipeline.from_folders(folders["tokenizer"], folders["encoder"], folders["postprocess"])
        parity = parities.compare(pipeline, examples, settings, self._options.precision)
        self._progress.done(_verdict(parity))
        return self._commit(staged, Plan(self._options.name, build, settings, artefact, self._options.max_batch_size),
                            facts, files, parity, examples)  # fmt: skip

    def _write_stages(self, folders: Mapping[str, Path], settings: TaskSettings, artefact: Artefact,
                      tokenizer: PreTrainedTokenizerBase) -> None:  # fmt: skip
        settings.write(folders["tokenizer"])
        settings.write(folders["postprocess"])
        tokenizer.backend_tokenizer.save(str(folders["tokenizer"] / TOKENIZER))
        EngineSettings(
            self._options.engine, self._options.precision, artefact.file, settings.encoder_inputs, settings.pad_id
        ).write(folders["encoder"])
        for role, template in {**{role: role for role in ROLES}, "encoder": artefact.template}.items():
            source = templates() / "models" / template / VERSION / "model.py"
            if source.is_file():
                shutil.copyfile(source, folders[role] / "model.py")

    def _commit(self, staged: Path, plan: Plan, facts: Facts, files: dict[str, str], parity: Parity,
                examples: list[Example]) -> Manifest:  # fmt: skip
        self._progress.step("Commit")
        configs: dict[str, ModelConfig] = configurations(plan)
        for role in ROLES:
            write_config(configs[role], staged / role / CONFIG)
        targets = {role: Path(step_name(plan.name, role, plan.build)) for role in ROLES}
        manifest = _manifest(plan, facts, files, parity, self._options, commits.hashes(staged, targets))
        record = staged / commits.RECORD
        record.mkdir()
        write_reference(record, examples)
        (record / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        commits.commit(self._options.repository, staged, plan.name, plan.build, configs["ensemble"])
        self._progress.done(f"{self._options.repository / plan.name}, build {plan.build}")
        return manifest


def _quiet_transformers() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _VERSIONED}


def _build_id(files: Mapping[str, str], facts: Facts, options: BuildOptions) -> str:
    """Eight hex digits that change with anything that can change an answer."""
    parts = {
        "files": files,
        "facts": [facts.task, facts.labels, facts.problem_type, facts.max_length],
        "tokenizer": Source("", options.overrides.tokenizer, None).hashes() if options.overrides.tokenizer else {},
        "options": [options.engine, options.precision, options.max_batch_size, sorted(options.defaults.items())],
        "versions": {**_versions(), options.engine: metadata.version(options.engine)},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _settings(
    facts: Facts, tokenizer: PreTrainedTokenizerBase, inputs: tuple[str, ...], options: BuildOptions
) -> TaskSettings:
    return TaskSettings(
        task=facts.task,
        labels=facts.labels,
        problem_type=facts.problem_type,
        max_length=facts.max_length,
        encoder_inputs=inputs,
        pad_id=int(tokenizer.pad_token_id or 0),
        unk_id=tokenizer.unk_token_id,
        defaults=_defaults(tokenizer, options),
    )


def _defaults(tokenizer: PreTrainedTokenizerBase, options: BuildOptions) -> dict[str, Any]:
    """The user's, over the side that the checkpoint's own tokenizer is set to cut."""
    side = {"truncation": "left"} if tokenizer.truncation_side == "left" else {}
    return {**side, **options.defaults}


def _manifest(plan: Plan, facts: Facts, files: Mapping[str, str], parity: Parity, options: BuildOptions,
              hashes: Mapping[str, str]) -> Manifest:  # fmt: skip
    return Manifest(
        name=plan.name,
        build=plan.build,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tritext=tritext.__version__,
        task=facts.task,
        labels=facts.labels,
        problem_type=facts.problem_type,
        max_length=facts.max_length,
        max_batch_size=plan.max_batch_size,
        checkpoint={
            "source": facts.source.name,
            "revision": facts.source.revision,
            "architecture": facts.architecture,
            "model_type": facts.model_type,
            "tokenizer": facts.tokenizer_class,
            "files": files,
        },
        engine={"name": options.engine, "precision": options.precision, **plan.artefact.versions},
        steps={role: step_name(plan.name, role, plan.build) for role in ROLES},
        files=hashes,
        versions=_versions(),
        parity=parities.as_json(parity),
    )


def _megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.1f} MB"


def _verdict(parity: Parity) -> str:
    return (
        f"{parity.texts} texts, ids identical, logits within {parity.max_logit_difference:.1e} "
        f"(allowed {parity.tolerance['logits']:.1e}), labels {parity.labels_agree}/{parity.labels}"
    )
