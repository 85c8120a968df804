"""How a checkpoint is asked when a row holds several texts, so that it answers each as if it were alone.

Source of the idea: Krell et al., "Efficient Sequence Packing without Cross-contamination" (2021): attention keeps
the texts of a row apart, positions begin anew with each. Relative positions need no care: within a text they are the
same wherever it lies. The head of a text-level task gets each text's first token instead of each row's.
"""

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

import torch
from torch.nn.functional import pad
from transformers import PretrainedConfig, PreTrainedModel

from tritext import contract
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS
from tritext.engines.torch_heads import logits_of, mean_of_texts

_DEBERTA: Final = ("deberta", "deberta-v2")
_MOBILEBERT: Final = "mobilebert"
_WINDOWED: Final = "sliding_attention"  # as a configuration's `layer_types` has it


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a model's parts are to be given in place of what its outermost module passes on."""

    inputs: Mapping[str, Any]
    segments: torch.Tensor
    first: torch.Tensor | None
    gather: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


# Threads may ask the same model at once.
_asked: Final[ContextVar[_Asked | None]] = ContextVar("asked", default=None)


class PackedModel:
    """`model`, prepared to be asked with packed rows. It still answers as before to whoever calls it itself.

    Works for every model whose base takes ``position_ids`` or knows relative positions only, unless it mixes
    neighbouring tokens other than by attention (a convolution). MobileBERT does so in its embeddings, and is told where
    texts end. `position_offset` is the id of a first position.
    """

    def __init__(self, model: PreTrainedModel, position_offset: int) -> None:
        self.model = model
        self._offset = position_offset
        base: Any = model.base_model
        self._gather = getattr(model, "gather", _mean if _takes_means(model) else _picked)
        taken = inspect.signature(type(base).forward).parameters
        self._takes_positions = POSITION_IDS in taken
        self._takes_types = contract.TOKEN_TYPE_IDS.name in taken
        base.forward = _answering(base, base.forward)
        if model.config.model_type in _DEBERTA:
            base.embeddings.forward = _told_of_padding(base.embeddings.forward)
        if model.config.model_type == _MOBILEBERT:
            base.embeddings.forward = _told_of_ends(base.embeddings, base.embeddings.forward)

    def logits(self, given: Mapping[str, torch.Tensor], attention: Mapping[str, Any]) -> torch.Tensor:
        """Logits [T, C], or [R, L, C] where no ``first_tokens`` are `given`, for the inputs of a packed graph.

        `attention` are further arguments of the base model, which keep texts apart: `block_diagonal`, or those of
        another attention.
        """
        names = (contract.INPUT_IDS.name, contract.TOKEN_TYPE_IDS.name)
        inputs = {name: given[name] for name in names if name in given}
        if self._takes_types:  # BigBird's own are as many as it has positions, which a row may exceed
            inputs.setdefault(contract.TOKEN_TYPE_IDS.name, torch.zeros_like(given[contract.INPUT_IDS.name]))
        if self._takes_positions:
            inputs[POSITION_IDS] = _positions(given, self._offset)
        token = _asked.set(_Asked({**inputs, **attention}, given[SEGMENT_IDS], given.get(FIRST_TOKENS), self._gather))
        try:
            logits = logits_of(self.model(input_ids=given[contract.INPUT_IDS.name]))
        finally:
            _asked.reset(token)
        return (
            logits[:, 0] if FIRST_TOKENS in given and logits.ndim == 3 else logits
        )  # a head of tokens got one of each


def _positions(given: Mapping[str, torch.Tensor], offset: int) -> torch.Tensor:
    """The ids of the positions [R, L] in each text, as the model counts them.

    One that begins behind its padding token's id leaves out tokens of that id, also inside a text where somebody
    wrote it: they have the position of padding. (transformers' ``create_position_ids_from_input_ids``.)
    """
    positions = given[POSITION_IDS].long()
    if not offset:
        return positions
    padding = offset - 1
    counts = (given[contract.INPUT_IDS.name] != padding).long()
    until = counts.cumsum(-1)
    starts = torch.arange(positions.shape[-1], device=positions.device) - positions
    return (until - (until - counts).gather(-1, starts)) * counts + padding


def block_diagonal(model: PreTrainedModel, segments: torch.Tensor) -> dict[str, Any]:
    """The attention mask that keeps apart the texts numbered in `segments` [R, L], as `model` takes it."""
    together = segments[:, :, None] == segments[:, None, :]
    if model.config.model_type in _DEBERTA:  # makes its own bias, from [R, L, L] of ones and zeros
        return {contract.ATTENTION_MASK.name: together.to(torch.int32)}
    dtype: torch.dtype = model.base_model.dtype  # type: ignore[assignment]  # torch says any module may be there
    # Filled where it is needed: a value copied there would end the capture of a CUDA graph.
    lowest = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=segments.device)
    full = torch.where(together[:, None], torch.zeros_like(lowest), lowest)
    if not has_windows(model.config):
        return {contract.ATTENTION_MASK.name: full}
    places = torch.arange(segments.shape[1], device=segments.device)
    near = (places[:, None] - places[None]).abs() <= model.config.sliding_window
    return {contract.ATTENTION_MASK.name: {"full_attention": full, _WINDOWED: torch.where(near, full, lowest)}}


def has_windows(config: PretrainedConfig) -> bool:
    """Whether some layers, as ModernBERT's, let a token attend only to those near it."""
    return _WINDOWED in (getattr(config, "layer_types", None) or ())


def _takes_means(model: PreTrainedModel) -> bool:
    """Whether the head of a text looks at the mean of its tokens, as ModernBERT's may."""
    return type(model).__name__ == "ModernBertForSequenceClassification" and model.config.classifier_pooling == "mean"


def _mean(hidden: torch.Tensor, segments: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    return mean_of_texts(hidden, segments, first).to(hidden.dtype)


def _picked(hidden: torch.Tensor, segments: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Of hidden states [R, L, H] those of the tokens at `first` [T] in the flattened rows."""
    del segments
    return hidden.reshape(-1, hidden.shape[-1]).index_select(0, first)


def _one_each(base: Any, output: Any, asked: _Asked, first: torch.Tensor) -> Any:
    """The base's output as if each text were a row of one token: its first, which is all that most heads look at."""
    hidden = asked.gather(output[0], asked.segments, first)[:, None]
    output["last_hidden_state"] = hidden
    pooler = getattr(base, "pooler", None)
    if pooler is not None:
        activation = getattr(base, "pooler_activation", None)  # ALBERT's is beside the pooler, not in it
        output["pooler_output"] = activation(pooler(hidden[:, 0])) if activation else pooler(hidden)
    return output


def _answering(base: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        asked = _asked.get()
        if asked is None:
            return original(*args, **kwargs)
        output = original(**asked.inputs)
        return output if asked.first is None else _one_each(base, output, asked, asked.first)

    return forward


def _told_of_padding(original: Callable[..., Any]) -> Callable[..., Any]:
    """DeBERTa also blanks out padding in its embeddings, by the mask, which must be [R, L] there."""

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        asked = _asked.get()
        return original(*args, **(kwargs if asked is None else {**kwargs, "mask": asked.segments > 0}))

    return forward


def _told_of_ends(embeddings: Any, original: Callable[..., Any]) -> Callable[..., Any]:
    """MobileBERT puts each word's two neighbours beside it: here those of its own text, and 0 where there is none."""

    @wraps(original)
    def forward(
        input_ids: torch.Tensor, token_type_ids: torch.Tensor | None = None, position_ids: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:  # fmt: skip
        asked = _asked.get()
        if asked is None or not embeddings.trigram_input:
            return original(input_ids, token_type_ids, position_ids, **others)
        words = embeddings.word_embeddings(input_ids)
        follows = (asked.segments[:, 1:] == asked.segments[:, :-1])[..., None].to(words.dtype)
        after, before = pad(words[:, 1:] * follows, (0, 0, 0, 1)), pad(words[:, :-1] * follows, (0, 0, 1, 0))
        hidden = embeddings.embedding_transformation(torch.cat([after, words, before], dim=2))
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        hidden = hidden + embeddings.position_embeddings(position_ids) + embeddings.token_type_embeddings(types)
        return embeddings.LayerNorm(hidden)

    return forward
