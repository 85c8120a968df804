"""A checkpoint that takes several texts in one row, and answers each as if it were alone.

Source of the idea: Krell et al., "Efficient Sequence Packing without Cross-contamination" (2021): a block-diagonal
attention mask keeps the texts of a row apart, positions begin anew with each. Relative positions need no care:
within a text they are the same wherever it lies. The head of a text-level task gets each text's first token instead
of each row's.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from tritext import contract
from tritext.build.checkpoint import position_offset
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS

_DEBERTA: Final = ("deberta", "deberta-v2")


class Packed(torch.nn.Module):
    """`model` over packed rows: the inputs of a packed `Graph` called `names`, in order; its logits as output.

    Works for every model whose base takes ``position_ids`` or knows relative positions only. It does not for one
    that mixes neighbouring tokens other than by attention (a convolution); the build compares and finds that out.
    """

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...], *, per_text: bool) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.per_text = per_text
        self.offset = position_offset(model.config)
        self.eval()  # the exporter puts back the mode of this outermost module, dropout included

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        """Logits [T, C] or [R, L, C]."""
        given = dict(zip(self.names, arrays, strict=True))
        base, segments = self.model.base_model, given[SEGMENT_IDS]
        base_forward = base.forward

        def answer(*_: Any, **__: Any) -> Any:
            output = base_forward(**self._base_inputs(given))
            return _first_tokens(base, output, given[FIRST_TOKENS]) if self.per_text else output

        with _replaced(base, answer), _deberta_embeddings(self.model, segments):
            logits: torch.Tensor = self.model(input_ids=given[contract.INPUT_IDS.name]).logits
        return logits

    def _base_inputs(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = (contract.INPUT_IDS.name, contract.TOKEN_TYPE_IDS.name)
        inputs = {name: given[name] for name in names if name in given}
        if POSITION_IDS in inspect.signature(type(self.model.base_model).forward).parameters:
            inputs[POSITION_IDS] = given[POSITION_IDS].long() + self.offset
        segments = given[SEGMENT_IDS]
        together = segments[:, :, None] == segments[:, None, :]
        if self.model.config.model_type in _DEBERTA:  # makes its own bias, from [B, L, L] of ones and zeros
            inputs[contract.ATTENTION_MASK.name] = together.to(torch.int32)
        else:
            dtype = self.model.dtype
            lowest = torch.tensor(torch.finfo(dtype).min, dtype=dtype)
            inputs[contract.ATTENTION_MASK.name] = torch.where(together[:, None], torch.zeros_like(lowest), lowest)
        return inputs


def _first_tokens(base: Any, output: Any, first: torch.Tensor) -> Any:
    """The base's output as if each text were a row of one token: its first, which is all that heads look at."""
    hidden = output[0]
    hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, first)[:, None]
    output["last_hidden_state"] = hidden
    pooler = getattr(base, "pooler", None)
    if pooler is not None:
        activation = getattr(base, "pooler_activation", None)  # ALBERT's is beside the pooler, not in it
        output["pooler_output"] = activation(pooler(hidden[:, 0])) if activation else pooler(hidden)
    return output


@contextmanager
def _replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    original = module.forward
    module.forward = forward
    try:
        yield
    finally:
        module.forward = original


@contextmanager
def _deberta_embeddings(model: PreTrainedModel, segments: torch.Tensor) -> Iterator[None]:
    """DeBERTa also blanks out padding in its embeddings, by the mask, which must be [B, L] there."""
    if model.config.model_type not in _DEBERTA:
        yield
        return
    embeddings: Any = model.base_model.embeddings
    original = embeddings.forward

    def forward(*args: Any, mask: Any = None, **kwargs: Any) -> Any:
        del mask
        return original(*args, mask=segments > 0, **kwargs)

    with _replaced(embeddings, forward):
        yield
