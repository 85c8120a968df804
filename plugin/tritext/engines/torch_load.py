"""From the folder that the torch engine wrote to a model that is ready to be asked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from tritext.engines import torch_attention
from tritext.engines.base import Precision
from tritext.engines.pytorch import PACKING
from tritext.engines.torch_heads import HEADS
from tritext.errors import EngineError

_DTYPES: Final[dict[Precision, torch.dtype]] = {
    "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packing:
    """How a model is asked: the graph's `inputs`, whether its rows hold several texts, its first position's id."""

    inputs: tuple[str, ...]
    packed: bool
    position_offset: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model on its `device`; `by_text`: it has our attention, which needs no mask."""

    model: PreTrainedModel
    packing: Packing
    device: torch.device
    by_text: bool


def load(folder: Path, device: torch.device, precision: Precision) -> Loaded:
    """Read `folder`, and nothing else: no hub, no pickle, no code. EngineError where that cannot be."""
    transformers.utils.logging.disable_progress_bar()
    try:
        packing = _packing(folder)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model_class = _model_class(config)
        dtype = _DTYPES[precision]
        head_size = config.hidden_size // config.num_attention_heads
        by_text = packing.packed and torch_attention.is_possible(model_class, head_size, device, dtype)
        model, report = model_class.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation=_implementation(_encoder_class(model_class, config), by_text=by_text),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        if report["missing_keys"]:
            raise EngineError(f"{folder} lacks weights. Build the model again.")  # noqa: TRY301
        round_to(model.eval(), dtype)
        model.to(device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # other streams than the one that copied will read the weights
        return Loaded(model, packing, device, by_text)
    except EngineError:
        raise
    except Exception as error:  # whatever a damaged file or a device makes the loaders raise
        detail = str(error).strip().split("\n", maxsplit=1)[0]
        raise EngineError(f"PyTorch cannot load {folder}: {detail}") from error


def _packing(folder: Path) -> Packing:
    values = json.loads((folder / PACKING).read_text(encoding="utf-8"))
    return Packing(tuple(values["inputs"]), bool(values["packed"]), int(values["position_offset"]))


def _model_class(config: PretrainedConfig) -> Any:
    """The class that was saved, which transformers has: a task is known by its head."""
    name = next(iter(config.architectures or []), "")
    found = HEADS.get(name) or getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise EngineError(f"transformers {transformers.__version__} has no model class {name!r}.")
    return found


def _encoder_class(model_class: Any, config: PretrainedConfig) -> Any:
    """The class whose attention it is: a head of ours takes any encoder's."""
    return transformers.MODEL_MAPPING[type(config)] if model_class in HEADS.values() else model_class


def _implementation(model_class: Any, *, by_text: bool) -> str:
    if by_text:
        return torch_attention.NAME
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def round_to(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """All but the head to `dtype`: a logit near 8 has steps of 1/16 in bf16, and a head is hardly any work."""
    if dtype == torch.float32:
        return
    _untie(model)
    model.base_model.to(dtype)

    def as_the_head_is(_module: Any, _inputs: Any, output: Any) -> Any:
        for name, value in output.items():
            if isinstance(value, torch.Tensor):
                output[name] = value.float()
        return output

    model.base_model.register_forward_hook(as_the_head_is)


def _untie(model: PreTrainedModel) -> None:
    """Give the head its own copy of what it shares with the encoder, as one that fills masks does the embeddings."""
    inside = set(model.base_model.modules())
    shared = {id(parameter) for parameter in model.base_model.parameters()}
    for module in set(model.modules()) - inside:
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) in shared:
                setattr(module, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False))
