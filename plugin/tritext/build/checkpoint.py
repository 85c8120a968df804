"""Reading a checkpoint: its task, labels, lengths, tokenizer and weights, each of which can be overridden."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import transformers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tritext.build.source import Source
from tritext.errors import CheckpointError
from tritext.tasks import TASKS, task_named

# Model types whose position ids start behind the padding token's, which costs that many positions.
# Source: create_position_ids_from_input_ids in the models' code.
_OFFSET_POSITIONS: Final = frozenset(
    {"camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
)
_LONGEST: Final = 512  # where neither the tokenizer nor the model says
_PROBLEM_TYPES: Final = ("single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user says instead of the checkpoint."""

    task: str | None = None
    labels: Sequence[str] | None = None
    problem_type: str | None = None
    max_length: int | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a checkpoint without its weights."""

    source: Source
    task: str
    architecture: str
    model_type: str
    labels: tuple[str, ...]
    problem_type: str | None
    max_length: int
    tokenizer_class: str
    vocabulary: int


def inspect(source: Source, overrides: Overrides) -> tuple[Facts, PreTrainedTokenizerBase]:
    """Read config and tokenizer; CheckpointError says what is missing or not supported."""
    config = _config(source)
    tokenizer = _tokenizer(source, overrides)
    labels = _labels(config, overrides)
    architecture = next(iter(config.architectures or []), "")
    facts = Facts(
        source=source,
        task=_task(architecture, overrides, source),
        architecture=architecture,
        model_type=config.model_type,
        labels=labels,
        problem_type=_problem_type(config, overrides),
        max_length=_max_length(config, tokenizer, overrides),
        tokenizer_class=type(tokenizer).__name__,
        vocabulary=len(tokenizer),
    )
    return facts, tokenizer


def load_model(facts: Facts) -> PreTrainedModel:
    """The checkpoint as a torch module in fp32, in evaluation mode; CheckpointError where weights are missing."""
    auto_class: Any = getattr(transformers, task_named(facts.task).auto_class)
    try:
        model, report = auto_class.from_pretrained(
            facts.source.folder,
            dtype="float32",
            attn_implementation="eager",
            num_labels=len(facts.labels),
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"The weights of {facts.source.name} cannot be loaded: {_sentence(error)}") from error
    missing = sorted(report["missing_keys"]) + [key for key, *_ in sorted(report.get("mismatched_keys") or [])]
    if missing:
        some = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise CheckpointError(
            f"{facts.source.name} has no weights for {some}: it was not fine-tuned for {facts.task}, and random "
            "weights would answer. Fine-tune it first, or check --task."
        )
    return model.eval()  # type: ignore[no-any-return]


def _config(source: Source) -> PretrainedConfig:
    path = source.folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{source.name} has no config.json. A checkpoint is what `save_pretrained` writes: config.json, "
            "model.safetensors and the tokenizer's files."
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    model_type = raw.get("model_type") if isinstance(raw, dict) else None
    if model_type not in transformers.CONFIG_MAPPING:
        if isinstance(raw, Mapping) and raw.get("auto_map"):
            raise CheckpointError(
                f"{source.name} needs its own code (auto_map in config.json), which tritext does not run: code from a "
                "checkpoint can do anything on this machine. Use a checkpoint of an architecture in transformers."
            )
        raise CheckpointError(
            f"{source.name} has model_type {model_type!r}, which transformers {transformers.__version__} does not know."
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read: {_sentence(error)}") from error
    return config


def _tokenizer(source: Source, overrides: Overrides) -> PreTrainedTokenizerBase:
    folder = overrides.tokenizer or source.folder
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a damaged tokenizer file makes the loader raise
        raise CheckpointError(f"The tokenizer in {folder} cannot be loaded: {_sentence(error)}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"The tokenizer in {folder} ({type(tokenizer).__name__}) has no fast form. Convert it with transformers "
            "and give the result with --tokenizer."
        )
    return tokenizer


def _task(architecture: str, overrides: Overrides, source: Source) -> str:
    if overrides.task:
        return task_named(overrides.task).name
    for task in TASKS.values():
        if architecture.endswith(task.auto_class.removeprefix("AutoModel")):
            return task.name
    raise CheckpointError(
        f"{source.name} is a {architecture or 'model without a head'}; tritext serves {', '.join(TASKS)}. If it was "
        "fine-tuned for one of them, say so with --task."
    )


def _labels(config: PretrainedConfig, overrides: Overrides) -> tuple[str, ...]:
    names = {int(index): str(label) for index, label in (config.id2label or {}).items()}
    count = max(names, default=-1) + 1
    if overrides.labels is None:
        return tuple(names.get(i, f"LABEL_{i}") for i in range(count))
    if count and len(overrides.labels) != count:
        raise CheckpointError(f"--labels gives {len(overrides.labels)} names, the checkpoint has {count} classes.")
    return tuple(overrides.labels)


def _problem_type(config: PretrainedConfig, overrides: Overrides) -> str | None:
    problem_type = overrides.problem_type or config.problem_type
    if problem_type is not None and problem_type not in _PROBLEM_TYPES:
        raise CheckpointError(f"Problem type {problem_type!r} is not one of {', '.join(_PROBLEM_TYPES)}.")
    return problem_type


def _max_length(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, overrides: Overrides) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in _OFFSET_POSITIONS:
        positions -= int(config.pad_token_id) + 1
    if overrides.max_length is None:
        return int(min(tokenizer.model_max_length, positions or _LONGEST))
    if overrides.max_length < 8:
        raise CheckpointError(f"--max-length {overrides.max_length} is too short; it must be at least 8 tokens.")
    if positions and overrides.max_length > positions:
        raise CheckpointError(f"--max-length {overrides.max_length} is more than the model's {positions} positions.")
    return overrides.max_length


def _sentence(error: BaseException) -> str:
    """The first line of a library's message, which often runs to pages."""
    return str(error).strip().split("\n", maxsplit=1)[0][:400] or type(error).__name__
