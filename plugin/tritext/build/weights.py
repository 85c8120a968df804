"""A checkpoint's weights, all of them and nothing else."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from safetensors.torch import load_file
from transformers import PreTrainedModel

from tritext.build.architectures import loaded_with
from tritext.build.checkpoint import Facts
from tritext.build.sentences import dense_layer
from tritext.build.source import sentence
from tritext.errors import CheckpointError
from tritext.tasks import task_named

_LFS: Final = b"version https://git-lfs"


def load_model(facts: Facts) -> PreTrainedModel:
    """The checkpoint as a torch module in fp32, in evaluation mode; CheckpointError where weights are missing."""
    _check_pointers(facts)
    task = task_named(facts.task)
    auto_class: Any = getattr(transformers, task.auto_class)
    labels = {"num_labels": len(facts.labels)} if task.has_labels else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how a pickle was written
            model, report = auto_class.from_pretrained(
                facts.source.folder,
                dtype="float32",
                attn_implementation="eager",
                **labels,
                **loaded_with(facts.model_type),
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # to say it in our words
                output_loading_info=True,
            )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"The weights of {facts.source.name} are a pickle that holds more than weights, and to load it could run "
            "code of its maker's. Ask for model.safetensors instead."
        ) from error
    except Exception as error:  # whatever a damaged file makes transformers and safetensors raise
        raise CheckpointError(f"The weights of {facts.source.name} cannot be loaded: {sentence(error)}") from error
    if facts.sentences is not None:  # nothing is read off the pooler
        report = {**report, "missing_keys": [key for key in report["missing_keys"] if not key.startswith("pooler.")]}
    _check_complete(facts, report)
    return _pooling(model, facts) if facts.sentences is not None else model.eval()


def _pooling(base: PreTrainedModel, facts: Facts) -> PreTrainedModel:
    """`base` with its vectors pooled as the checkpoint says."""
    from tritext.engines.torch_heads import SentenceEncoder

    said = facts.sentences
    assert said is not None  # noqa: S101 - tells the type checker
    folders = [facts.source.folder / name for name in said.dense]
    base.config.sentence = {"pooling": said.pooling, "dense": [dense_layer(folder) for folder in folders]}
    made = SentenceEncoder(base.config)
    made.encoder.load_state_dict({k: v for k, v in base.state_dict().items() if not k.startswith("pooler.")})
    layers = [layer for layer in made.dense if isinstance(layer, torch.nn.Linear)]
    for layer, folder in zip(layers, folders, strict=True):
        try:
            weights = _dense_weights(folder)
            layer.load_state_dict({key.removeprefix("linear."): value for key, value in weights.items()})
        except Exception as error:  # whatever a damaged file makes torch and safetensors raise
            raise CheckpointError(f"The weights in {folder} cannot be loaded: {sentence(error)}") from error
    return made.eval()  # type: ignore[no-any-return, no-untyped-call]


def _dense_weights(folder: Path) -> dict[str, torch.Tensor]:
    if (folder / "model.safetensors").is_file():
        return load_file(folder / "model.safetensors")
    weights: dict[str, torch.Tensor] = torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)
    return weights


def _check_pointers(facts: Facts) -> None:
    for path in sorted(facts.source.folder.glob("*.safetensors")):
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise CheckpointError(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` there.")


def _check_complete(facts: Facts, report: Mapping[str, Any]) -> None:
    if missing := sorted(report["missing_keys"]):
        some = ", ".join(missing[:4]) + (" …" if len(missing) > 4 else "")
        raise CheckpointError(
            f"{facts.source.name} has no weights for {some}: it was not fine-tuned for {facts.task}, and random "
            "weights would answer. Fine-tune it first, or check --task."
        )
    for key, stored, expected in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{facts.source.name} has {key} of the shape {list(stored)}, but by its config.json, with "
            f"{len(facts.labels)} labels, it is {list(expected)}. Correct config.json, or check --labels."
        )
