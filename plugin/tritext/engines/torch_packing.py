"""How a checkpoint is asked when a row holds several texts, so that it answers each as if it were alone.

Source of the idea: Krell et al., "Efficient Sequence Packing without Cross-contamination" (2021): attention keeps
the texts of a row apart, positions begin anew with each. Relative positions need no care: within a text they are the
same wherever it lies. The head of a text-level task gets each text's first token instead of each row's.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from tritext import contract
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS

_DEBERTA: Final = ("deberta", "deberta-v2")


def packed_logits(
    model: PreTrainedModel, given: Mapping[str, torch.Tensor], *, position_offset: int, attention: Mapping[str, Any]
) -> torch.Tensor:
    """Logits [T, C], or [R, L, C] where no ``first_tokens`` are `given`, for the inputs of a packed graph.

    `attention` are further arguments of the base model, which keep texts apart: `block_diagonal`, or those of another
    attention. Works for every model whose base takes ``position_ids`` or knows relative positions only, unless it
    mixes neighbouring tokens other than by attention (a convolution).
    """
    base = model.base_model
    base_forward = base.forward
    inputs = {name: given[name] for name in (contract.INPUT_IDS.name, contract.TOKEN_TYPE_IDS.name) if name in given}
    if POSITION_IDS in inspect.signature(type(base).forward).parameters:
        inputs[POSITION_IDS] = given[POSITION_IDS].long() + position_offset

    def answer(*_: Any, **__: Any) -> Any:
        output = base_forward(**inputs, **attention)
        return _first_tokens(base, output, given[FIRST_TOKENS]) if FIRST_TOKENS in given else output

    with _replaced(base, answer), _deberta_embeddings(model, given[SEGMENT_IDS]):
        logits: torch.Tensor = model(input_ids=inputs[contract.INPUT_IDS.name]).logits
    return logits


def block_diagonal(model: PreTrainedModel, segments: torch.Tensor) -> dict[str, torch.Tensor]:
    """The attention mask that keeps apart the texts numbered in `segments` [R, L], as `model` takes it."""
    together = segments[:, :, None] == segments[:, None, :]
    if model.config.model_type in _DEBERTA:  # makes its own bias, from [R, L, L] of ones and zeros
        return {contract.ATTENTION_MASK.name: together.to(torch.int32)}
    dtype: torch.dtype = model.base_model.dtype  # type: ignore[assignment]  # torch says any module may be there
    # Filled where it is needed: a value copied there would end the capture of a CUDA graph.
    lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=segments.device)
    return {contract.ATTENTION_MASK.name: torch.where(together[:, None], torch.zeros_like(lowest), lowest)}


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
    """DeBERTa also blanks out padding in its embeddings, by the mask, which must be [R, L] there."""
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
