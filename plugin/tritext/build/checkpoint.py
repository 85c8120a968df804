"""What a checkpoint says of itself: its task, labels, lengths and tokenizer, each of which can be overridden."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import transformers
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from tritext.build import architectures
from tritext.build.sentences import MODULES, Sentences, plain
from tritext.build.sentences import read as sentences_in
from tritext.build.source import Source, sentence
from tritext.errors import CheckpointError
from tritext.stored import read_json
from tritext.tasks import TASKS, task_named
from tritext.tasks.feature_extraction import TASK as EMBEDDING

# Model types whose position ids start behind the padding token's, which costs that many positions.
# Source: create_position_ids_from_input_ids in the models' code.
_OFFSET_POSITIONS: Final = frozenset(
    {"camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}
)
_LONGEST: Final = 512  # where neither the tokenizer nor the model says
_SHORTEST: Final = 8
# More than any encoder has. Code that builds a model, or lists its labels, would follow larger ones to the last byte.
_LARGEST: Final[Mapping[str, int]] = {
    "num_hidden_layers": 512, "num_attention_heads": 1024, "hidden_size": 1 << 16, "intermediate_size": 1 << 18,
    "vocab_size": 1 << 24, "max_position_embeddings": 1 << 20, "type_vocab_size": 1 << 10,
}  # fmt: skip
_MOST_LABELS: Final = 1 << 16
_CONFIG: Final = "config.json"
_TOKENIZER_CONFIG: Final = "tokenizer_config.json"
_PROBLEM_TYPES: Final = ("single_label_classification", "multi_label_classification", "regression")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the user says instead of the checkpoint."""

    task: str | None = None
    labels: Sequence[str] | None = None
    problem_type: str | None = None
    max_length: int | None = None
    tokenizer: Path | None = None
    pooling: str | None = None


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
    sentences: Sentences | None = None  # how vectors are made, where they are the task


def inspect(source: Source, overrides: Overrides) -> tuple[Facts, PreTrainedTokenizerBase]:
    """Read config and tokenizer; CheckpointError says what is missing or not supported."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = _config(source)
    tokenizer = _tokenizer(source, overrides)
    _check_vocabulary(config, tokenizer, source)
    architecture = next(iter(config.architectures or []), "")
    sentences = _sentences(architecture, overrides, source)
    task = task_named(_task(architecture, overrides, source, sentences))
    if task.per == "mask" and tokenizer.mask_token_id is None:
        raise CheckpointError(f"The tokenizer of {source.name} has no mask token, so there is nothing to fill in.")
    labels = _labels(config, overrides, source) if task.has_labels else ()
    task.accept(labels)
    max_length = _max_length(config, tokenizer, overrides, sentences)
    architectures.check(config, source.name, max_length)
    facts = Facts(
        source=source,
        task=task.name,
        architecture=architecture or config.model_type,
        model_type=config.model_type,
        labels=labels,
        problem_type=_problem_type(config, overrides),
        max_length=max_length,
        tokenizer_class=type(tokenizer).__name__,
        vocabulary=len(tokenizer),
        sentences=sentences if task.auto_class == "AutoModel" else None,
    )
    return facts, tokenizer


def _config(source: Source) -> PretrainedConfig:
    path = source.folder / _CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{source.name} has no config.json. A checkpoint is what `save_pretrained` writes: config.json, "
            "model.safetensors and the tokenizer's files."
        )
    raw = _json(path)
    model_type = raw.get("model_type")
    is_known = isinstance(model_type, str) and model_type in transformers.CONFIG_MAPPING
    classes = raw.get("architectures") or []
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise CheckpointError(f"{path} has architectures that are no list of names.")
    if raw.get("auto_map") and not (is_known and all(hasattr(transformers, str(name)) for name in classes)):
        raise CheckpointError(_needs_code(source.name, path.name, "a checkpoint of an architecture"))
    if not is_known:
        raise CheckpointError(
            f"{source.name} has model_type {model_type!r}, which transformers {transformers.__version__} does not know."
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as error:  # each field has its own check, and its own exception
        raise CheckpointError(f"{path} cannot be read: {sentence(error)}") from error
    _check_sizes(config, path)
    return config


def _check_sizes(config: PretrainedConfig, path: Path) -> None:
    for name, largest in _LARGEST.items():
        size = getattr(config, name, None)
        if size is not None and not (isinstance(size, int) and 0 <= size <= largest):
            raise CheckpointError(f"{path} has {name} {str(size)[:40]}; it must be a whole number up to {largest}.")
    try:
        highest = max(map(int, config.id2label or {}), default=0)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has an id2label whose keys are no numbers.") from error
    if not 0 <= highest < _MOST_LABELS:
        raise CheckpointError(f"{path} has a class {highest}; classes go from 0 to {_MOST_LABELS - 1}.")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object.")
    return value


def _needs_code(name: str | Path, file: str, instead: str) -> str:
    return (
        f"{name} needs its own code (auto_map in {file}), which tritext does not run: code from a checkpoint can do "
        f"anything on this machine. Use {instead} that transformers has."
    )


def _tokenizer(source: Source, overrides: Overrides) -> PreTrainedTokenizerBase:
    folder = overrides.tokenizer or source.folder
    if not folder.is_dir():
        raise CheckpointError(f"--tokenizer {folder} is not a directory.")
    said = _json(folder / _TOKENIZER_CONFIG) if (folder / _TOKENIZER_CONFIG).is_file() else {}
    if said.get("auto_map") and not hasattr(transformers, str(said.get("tokenizer_class"))):
        raise CheckpointError(_needs_code(f"The tokenizer in {folder}", _TOKENIZER_CONFIG, "a tokenizer of a class"))
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a damaged tokenizer file makes the loader raise
        raise CheckpointError(f"The tokenizer in {folder} cannot be loaded: {sentence(error)}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"The tokenizer in {folder} ({type(tokenizer).__name__}) has no fast form. Convert it with transformers "
            "and give the result with --tokenizer."
        )
    files = sorted(set(tokenizer.vocab_files_names.values()))
    if not any((folder / name).is_file() for name in files):  # transformers makes an empty one up
        raise CheckpointError(
            f"{folder} has no tokenizer: none of {', '.join(files)}. Save it there with the tokenizer's "
            "`save_pretrained`, or give another directory with --tokenizer."
        )
    return tokenizer


def _check_vocabulary(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, source: Source) -> None:
    highest = max(tokenizer.get_vocab().values(), default=0)
    size = getattr(config, "vocab_size", None)
    if size is not None and highest >= size:
        raise CheckpointError(
            f"The tokenizer has ids up to {highest}, the model of {source.name} only {size} embeddings. They do not "
            "belong together; check --tokenizer."
        )


def _sentences(architecture: str, overrides: Overrides, source: Source) -> Sentences | None:
    said = plain(overrides.pooling) if overrides.pooling else sentences_in(source.folder)
    if said is None and (
        overrides.task == EMBEDDING.name or (not overrides.task and architecture.endswith(EMBEDDING.suffix))
    ):
        raise CheckpointError(
            f"{source.name} is a {architecture or 'model without a head'}, which gives vectors, and does not say how "
            f"those of a text's tokens become one: there is no {MODULES} as sentence-transformers writes it. Say how "
            "it was trained: --pooling mean, cls or max."
        )
    return said


def _task(architecture: str, overrides: Overrides, source: Source, sentences: Sentences | None) -> str:
    if overrides.task:
        return task_named(overrides.task).name
    if sentences is not None:
        return EMBEDDING.name
    for task in TASKS.values():
        if task.suffix and architecture.endswith(task.suffix):
            return task.name
    raise CheckpointError(
        f"{source.name} is a {architecture or 'model without a head'}; tritext serves {', '.join(TASKS)}. If it was "
        "fine-tuned for one of them, say so with --task."
    )


def _labels(config: PretrainedConfig, overrides: Overrides, source: Source) -> tuple[str, ...]:
    names = {int(index): str(label) for index, label in (config.id2label or {}).items()}
    count = max(names, default=-1) + 1
    if overrides.labels is None:
        return tuple(names.get(i, f"LABEL_{i}") for i in range(count))
    raw = _json(source.folder / _CONFIG)  # where it is silent, transformers says 2
    if len(overrides.labels) != count and (raw.get("id2label") or raw.get("num_labels")):
        raise CheckpointError(f"--labels gives {len(overrides.labels)} names, the checkpoint has {count} classes.")
    return tuple(overrides.labels)


def _problem_type(config: PretrainedConfig, overrides: Overrides) -> str | None:
    problem_type = overrides.problem_type or config.problem_type
    if problem_type is not None and problem_type not in _PROBLEM_TYPES:
        raise CheckpointError(f"Problem type {problem_type!r} is not one of {', '.join(_PROBLEM_TYPES)}.")
    return problem_type


def position_offset(config: PretrainedConfig) -> int:
    """The position of a text's first token: 0, but RoBERTa and its kin begin behind the padding token's id."""
    return int(config.pad_token_id or 0) + 1 if config.model_type in _OFFSET_POSITIONS else 0


def _max_length(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, overrides: Overrides, sentences: Sentences | None
) -> int:
    positions = getattr(config, "max_position_embeddings", None)
    if positions:
        positions -= position_offset(config)
    length = overrides.max_length
    if length is None:
        said = sentences.max_length if sentences else None
        length = int(min(said or tokenizer.model_max_length, positions or said or _LONGEST))
    if length < _SHORTEST:
        whose = "--max-length" if overrides.max_length is not None else "The checkpoint's maximum length of"
        raise CheckpointError(f"{whose} {length} is too short; it must be at least {_SHORTEST} tokens.")
    if positions and length > positions:
        raise CheckpointError(f"--max-length {length} is more than the model's {positions} positions.")
    return length
