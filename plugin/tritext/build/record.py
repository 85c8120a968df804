"""What is written down about a build: what went in, and the manifest of what came out."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

import tritext
from tritext.build import encoders
from tritext.build import parity as parities
from tritext.build.checkpoint import Facts
from tritext.build.config import templates
from tritext.build.encoders import Encoder
from tritext.build.options import BuildOptions
from tritext.build.parity import Parity
from tritext.build.source import Source
from tritext.manifest import Manifest, sha256
from tritext.naming import step_name
from tritext.repository import BuiltModel

_VERSIONED: Final = ("tritext", "torch", "transformers", "tokenizers", "onnx", "numpy")


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that goes into a build; `files` are the checkpoint's, with their hashes."""

    facts: Facts
    options: BuildOptions
    files: Mapping[str, str]

    def fingerprint(self) -> str:
        """A hash that changes with anything that can change an answer."""
        facts, options = self.facts, self.options
        tokenizer = options.overrides.tokenizer
        parts = {
            "files": self.files,
            "facts": [facts.task, facts.labels, facts.problem_type, facts.max_length],
            "sentences": asdict(facts.sentences) if facts.sentences else None,
            "tokenizer": Source("", tokenizer, None).hashes() if tokenizer else {},
            "options": [options.engine, options.precision, options.max_batch_size, sorted(options.defaults.items())],
            "thresholds": options.thresholds,
            "instances": options.instances,
            "plan": [options.batching, asdict(options.plan)],
            "gate": [options.texts, options.bounds.agreement, options.bounds.drift],
            "templates": _template_hashes(),
            "versions": _versions("openvino", "nncf", "onnxruntime"),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def manifest(model: BuiltModel, inputs: Inputs, encoder: Encoder, parity: Parity, files: Mapping[str, str],
             replaces: str | None) -> Manifest:  # fmt: skip
    """The record of the build `model`, whose `files` lie under their paths in the repository."""
    facts = inputs.facts
    return Manifest(
        name=model.name,
        build=model.build,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tritext=tritext.__version__,
        task=facts.task,
        labels=facts.labels,
        problem_type=facts.problem_type,
        max_length=facts.max_length,
        max_batch_size=encoder.max_batch_size(inputs.options.max_batch_size),
        checkpoint=_checkpoint(inputs),
        engine={"name": encoder.variant.engine, "precision": encoder.variant.precision, **encoder.artefact.versions},
        steps={role: step_name(model.name, role, model.build) for role in encoder.roles},
        files=files,
        versions=_versions(),
        parity=parities.as_json(parity),
        candidates=encoders.as_json(encoder.candidates),
        fingerprint=inputs.fingerprint(),
        replaces=replaces,
    )


def _checkpoint(inputs: Inputs) -> dict[str, Any]:
    facts = inputs.facts
    return {
        "source": facts.source.title,
        "revision": facts.source.revision,
        "architecture": facts.architecture,
        "model_type": facts.model_type,
        "tokenizer": facts.tokenizer_class,
        "files": inputs.files,
    }


def _versions(*more: str) -> dict[str, str]:
    return {package: _version(package) for package in (*_VERSIONED, *more)}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # installed under another name, or not by a package at all
        return "unknown"


def _template_hashes() -> dict[str, str]:
    root = templates()
    files = sorted(path for top in ("models", "ensembles") for path in (root / top).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): sha256(path) for path in files if path.suffix in {".pbtxt", ".py"}}
