"""A checkpoint's weights, all of them and nothing else."""

import pickle
import warnings
from collections.abc import Mapping
from typing import Any, Final

import transformers
from transformers import PreTrainedModel

from tritext.build.checkpoint import Facts
from tritext.build.source import sentence
from tritext.errors import CheckpointError
from tritext.tasks import task_named

_LFS: Final = b"version https://git-lfs"


def load_model(facts: Facts) -> PreTrainedModel:
    """The checkpoint as a torch module in fp32, in evaluation mode; CheckpointError where weights are missing."""
    _check_pointers(facts)
    auto_class: Any = getattr(transformers, task_named(facts.task).auto_class)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of how a pickle was written
            model, report = auto_class.from_pretrained(
                facts.source.folder,
                dtype="float32",
                attn_implementation="eager",
                num_labels=len(facts.labels),
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
    _check_complete(facts, report)
    return model.eval()  # type: ignore[no-any-return]


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
