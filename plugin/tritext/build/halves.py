"""A checkpoint that computes in half precision, for engines that take their types from the graph."""

import copy
from typing import Any

import torch
from transformers import PreTrainedModel


class _InFloat(torch.nn.Module):
    """A layer that takes and gives another type, and computes in float."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(hidden.float()).to(hidden.dtype)
        return output


def halved(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of `model` in `dtype`, half or bfloat16, but for layer normalisation, which stays in float.

    Its sums of squares leave half's range, and its mean and variance need more digits than bfloat16 has. Attention's
    softmax stays in `dtype`: engines fuse it with the products around it, and sum in float there.
    """
    # Not deepcopy: a model that was exported carries functions that are bound to it.
    made: Any = type(model)(copy.deepcopy(model.config))
    made.load_state_dict(model.state_dict())
    made.to(dtype).eval()
    for module in list(made.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.LayerNorm):
                setattr(module, name, _InFloat(child))
    return made  # type: ignore[no-any-return]
