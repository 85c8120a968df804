"""Attention without padding: texts end to end, each token attends to those of its own text.

`NAME` is known to transformers once this module is imported: a model loaded with ``attn_implementation=NAME`` takes
``cu_seq_lens_q`` [T + 1] and ``max_length_q`` beside its inputs [1, S], and no mask.
"""

import inspect
from itertools import pairwise
from typing import Any, Final

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

NAME: Final = "tritext_by_text"
_AMPERE: Final = (8, 0)
_HALF: Final = (torch.float16, torch.bfloat16)


def arguments(starts: torch.Tensor, longest: int) -> dict[str, Any]:
    """What the model takes in place of an attention mask."""
    return {"cu_seq_lens_q": starts, "max_length_q": longest}


def is_possible(model: type[PreTrainedModel], head_size: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `model` lets its attention be replaced, and `device` has a kernel for it.

    DeBERTa and MPNet do not: their own attention adds a term for relative positions.
    """
    if not getattr(model, "_supports_attention_backend", False):
        return False
    return device.type == "cpu" or _has_kernel(head_size, device, dtype)


def _has_kernel(head_size: int, device: torch.device, dtype: torch.dtype) -> bool:
    """The limits of FlashAttention 2 in torch; ``varlen_attn`` came with torch 2.10, its windows later."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    if "window_size" not in inspect.signature(varlen_attn).parameters:
        return False
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return False
    return dtype in _HALF and head_size % 8 == 0 and head_size <= 256


def _attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any,
    scaling: float | None = None, dropout: float = 0.0, *, cu_seq_lens_q: torch.Tensor, max_length_q: int,
    sliding_window: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """As transformers wants it: [1, H, S, D] to [1, S, H, D], and no weights.

    `sliding_window` is one more than the distance over which a token attends to others.
    """
    del module, attention_mask, dropout
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    attend = _one_by_one if query.device.type == "cpu" else _by_kernel
    reach = None if sliding_window is None else sliding_window - 1
    return attend(q, k, v, cu_seq_lens_q, max_length_q, scaling, reach)[None], None


def _by_kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, scale: float | None,
    reach: int | None,
) -> torch.Tensor:  # fmt: skip
    """`starts` stays on the device: nothing waits, and a CUDA graph can replay it with other texts."""
    from torch.nn.attention.varlen import varlen_attn

    window = (-1, -1) if reach is None else (reach, reach)
    out = varlen_attn(q, k, v, starts, starts, longest, longest, scale=scale, window_size=window)
    assert isinstance(out, torch.Tensor)  # noqa: S101  # a pair only where it is asked for
    return out


def _one_by_one(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, longest: int, scale: float | None,
    reach: int | None,
) -> torch.Tensor:  # fmt: skip
    """[S, H, D] to the same. A CPU starts a kernel in microseconds, and multiplies no more than it must."""
    del longest
    out = torch.empty_like(q)
    for start, stop in pairwise(starts.tolist()):
        if start < stop:
            own = [each[start:stop].transpose(0, 1)[None] for each in (q, k, v)]
            near = None if reach is None else _near(stop - start, reach)
            attended = scaled_dot_product_attention(own[0], own[1], own[2], attn_mask=near, scale=scale)
            out[start:stop] = attended[0].transpose(0, 1)
    return out


def _near(length: int, reach: int) -> torch.Tensor:
    """Which tokens of a text are no further from each other than `reach`, [length, length]."""
    places = torch.arange(length)
    return (places[:, None] - places[None]).abs() <= reach


AttentionInterface.register(NAME, _attention)
