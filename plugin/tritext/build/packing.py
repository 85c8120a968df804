"""A checkpoint over packed rows as a module of its own, for the exporter."""

import torch
from transformers import PreTrainedModel

from tritext.build.checkpoint import position_offset
from tritext.engines.base import SEGMENT_IDS
from tritext.engines.torch_packing import PackedModel, block_diagonal


class Packed(torch.nn.Module):
    """`model` with the inputs of a packed `Graph` called `names`, in order, and its logits as output."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.packed = PackedModel(model, position_offset(model.config))
        self.eval()  # the exporter puts back the mode of this outermost module, dropout included

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        """Logits [T, C] or [R, L, C]."""
        given = dict(zip(self.names, arrays, strict=True))
        return self.packed.logits(given, block_diagonal(self.model, given[SEGMENT_IDS])).float()
