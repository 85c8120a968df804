"""What a sentence-transformers directory says: how its vectors are pooled, normalised and prompted.

Source of the format: sentence-transformers 6.2, ``modules.json`` and what its modules save beside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tritext.errors import CheckpointError

MODULES: Final = "modules.json"
CONFIG: Final = "config_sentence_transformers.json"
POOLINGS: Final = ("mean", "cls", "max")
# In this order; of those that are there and say something, the first is read.
_TRANSFORMER: Final = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_MODES: Final = {
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
_ACTIVATIONS: Final = {"Tanh": "tanh", "Identity": "identity"}


@dataclass(frozen=True, slots=True)
class Sentences:
    """How vectors are made of hidden states. `dense` are the folders of layers behind the pooling.

    `max_length`, in tokens, stands above what the tokenizer says of itself.
    """

    pooling: str
    normalize: bool = False
    max_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    dense: tuple[str, ...] = ()


def plain(pooling: str) -> Sentences:
    """Of a checkpoint that says nothing itself; CheckpointError where `pooling` is none."""
    if pooling not in POOLINGS:
        raise CheckpointError(f"--pooling {pooling} is none; there are {', '.join(POOLINGS)}.")
    return Sentences(pooling)


def read(folder: Path) -> Sentences | None:
    """What `folder` says; CheckpointError names what is not served.

    None where it is no sentence-transformers directory, or that of a cross-encoder, which pools nothing.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = _json(folder / MODULES)
    if not isinstance(modules, list) or not all(isinstance(each, dict) for each in modules):
        raise CheckpointError(f"{folder / MODULES} is not a JSON list of modules.")
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    if kinds == ["Transformer"] and _object(folder / CONFIG).get("model_type") == "CrossEncoder":
        return None
    paths = [_inside(folder, str(module.get("path", ""))) for module in modules]
    dense = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or set(dense) - {"Dense"} or paths[0] != folder:
        raise CheckpointError(
            f"{folder / MODULES} lists {', '.join(kinds)}. tritext serves a Transformer in the directory itself, then "
            "Pooling, then perhaps Dense layers, then perhaps Normalize."
        )
    said = next((said for name in _TRANSFORMER if (said := _object(folder / name))), {})
    if said.get("do_lower_case"):
        raise CheckpointError(f"{folder} asks for do_lower_case outside of its tokenizer, which tritext does not do.")
    prompts = _object(folder / CONFIG)
    length = said.get("max_seq_length")
    texts = {str(name): str(prompt) for name, prompt in (prompts.get("prompts") or {}).items()}
    return Sentences(
        pooling=_pooling(paths[1], has_prompts=any(texts.values())),
        normalize=kinds[-1] == "Normalize",
        max_length=length if isinstance(length, int) else None,
        prompts=texts,
        default_prompt=prompts.get("default_prompt_name"),
        dense=tuple(str(path.relative_to(folder)) for path in paths[2 : 2 + len(dense)]),
    )


def _pooling(folder: Path, *, has_prompts: bool) -> str:
    said = _object(folder / "config.json")
    modes = said.get("pooling_mode") or [mode for key, mode in _MODES.items() if said.get(key)] or "mean"
    mode = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
    if mode not in POOLINGS:
        shown = " and ".join(map(str, mode)) if isinstance(mode, list) else mode
        raise CheckpointError(f"{folder} pools by {shown}; tritext pools by one of {', '.join(POOLINGS)}.")
    if has_prompts and not said.get("include_prompt", True):
        raise CheckpointError(f"{folder} leaves the prompt's tokens out of the pooling, which tritext does not do.")
    return str(mode)


def dense_layer(folder: Path) -> dict[str, Any]:
    """The configuration of a Dense layer as `SentenceEncoder` has it; CheckpointError names an unknown activation."""
    said = _object(folder / "config.json")
    activation = str(said.get("activation_function", "")).rpartition(".")[2]
    try:
        return {
            "in": int(said["in_features"]), "out": int(said["out_features"]), "bias": bool(said.get("bias", True)),
            "activation": _ACTIVATIONS[activation],
        }  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{folder} has activation {activation!r} or lacks its sizes; tritext knows {', '.join(_ACTIVATIONS)}."
        ) from None


def _inside(folder: Path, path: str) -> Path:
    """A module's folder, which must not be elsewhere on the machine."""
    found = (folder / path).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder / MODULES} names {path!r}, which is outside of the checkpoint.")
    return folder / path if path else folder


def _object(path: Path) -> dict[str, Any]:
    value = _json(path) if path.is_file() else {}
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object.")
    return value


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
