"""Heads that transformers has no class for, in its form: saved and loaded like any of its models."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

_ACTIVATIONS: Final[Mapping[str, type[nn.Module]]] = {"identity": nn.Identity, "tanh": nn.Tanh}


class SentenceEncoder(PreTrainedModel):
    """An encoder whose ``logits`` are one vector a text, [N, H]: its tokens' hidden states, pooled.

    ``config.sentence`` says how: ``pooling``, and ``dense``, the layers behind it with their in, out and activation.
    Source of the computation: sentence-transformers, Pooling and Dense. Its Normalize is the answer's, not the graph's.
    """

    config_class = PretrainedConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.pooling: str = config.sentence["pooling"]
        self.encoder: Any = AutoModel.from_config(config)
        if getattr(self.encoder, "pooler", None) is not None:
            self.encoder.pooler = None  # what was trained to compare sentences does not look at it
        layers: list[nn.Module] = []
        for each in config.sentence.get("dense", ()):
            layers += [nn.Linear(each["in"], each["out"], bias=each["bias"]), _ACTIVATIONS[each["activation"]]()]
        self.dense = nn.Sequential(*layers)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """All weights are the checkpoint's."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutput:
        """`attention_mask` [N, L] says which tokens count. Without it the encoder was told to pool by itself."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        pooled = hidden[:, 0] if attention_mask is None else _pooled(hidden, attention_mask, self.pooling)
        for layer in self.dense:
            pooled = layer(pooled.to(layer.weight.dtype) if isinstance(layer, nn.Linear) else pooled)
        return SequenceClassifierOutput(logits=pooled)

    def gather(self, hidden: torch.Tensor, segments: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        """Of hidden states [R, L, H], one [H] for each of the texts that begin at `first` [T] in the flattened rows.

        `segments` [R, L] number the texts of a row from 1.
        """
        if self.pooling == "cls":
            return hidden.reshape(-1, hidden.shape[-1]).index_select(0, first)
        if self.pooling != "mean":
            raise NotImplementedError(f"Pooling {self.pooling} has one text a row.")
        return mean_of_texts(hidden, segments, first)


def _pooled(hidden: torch.Tensor, attention_mask: torch.Tensor, pooling: str) -> torch.Tensor:
    if pooling == "cls":
        return hidden[:, 0]
    mask = attention_mask[..., None]
    if pooling == "max":
        return hidden.masked_fill(mask == 0, torch.finfo(hidden.dtype).min).max(dim=1).values
    weights = mask.float()
    return (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)


def logits_of(output: Any) -> torch.Tensor:
    """A model's logits. Of one that answers questions [R, L, 2]: that an answer starts at a token, or ends there."""
    if "start_logits" in output:
        return torch.stack((output["start_logits"], output["end_logits"]), dim=-1)
    logits: torch.Tensor = output["logits"]
    return logits


HEADS: Final[Mapping[str, type[PreTrainedModel]]] = {"SentenceEncoder": SentenceEncoder}


def mean_of_texts(hidden: torch.Tensor, segments: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Of hidden states [R, L, H] the mean [T, H] over each text that begins at `first` [T] in the flattened rows.

    `segments` [R, L] number the texts of a row from 1. Each text's tokens are weighted in one product, which costs a
    hundredth of the encoder's.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    rows = torch.arange(segments.shape[0], device=segments.device)[:, None] * (segments.shape[1] + 1)
    texts = (rows + segments).reshape(-1)  # another number for each text
    members = (texts[None] == texts.index_select(0, first)[:, None]).float()
    # A batch of one product: TensorRT (RTX 1.7) fails on the plain one where the hidden states come in half.
    return (members[None] @ flat.float()[None])[0] / members.sum(-1, keepdim=True)
