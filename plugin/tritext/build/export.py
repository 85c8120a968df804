"""From a torch module to ONNX."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import onnx
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.deberta_v2 import modeling_deberta_v2 as deberta
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from tritext import contract
from tritext.build.halves import halved
from tritext.build.packing import Packed
from tritext.build.picking import pick_early
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS, Graph, Precision
from tritext.engines.torch_heads import logits_of
from tritext.errors import ExportError
from tritext.tasks.base import Per

_OPSET: Final = 17
_TYPED_OPSET: Final = 19  # the first in which the scales of Q/DQ nodes may be half
_TYPES: Final = {"fp16": torch.float16, "bf16": torch.bfloat16}
_LONGEST_ROW: Final = 2048  # of a packed graph, tokens; the tables of relative positions reach so far


class _Padded(torch.nn.Module):
    """The checkpoint with named INT32 inputs, in order, and nothing but its logits as output."""

    def __init__(self, model: PreTrainedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.eval()  # the exporter puts back the mode of this outermost module, dropout included

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        return logits_of(self.model(**dict(zip(self.names, arrays, strict=True)))).float()


def input_names(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The inputs that the tokenizer gives and the model takes."""
    accepted = inspect.signature(model.base_model.forward).parameters
    return tuple(
        tensor.name
        for tensor in contract.ENCODER_INPUTS
        if tensor.name in accepted
        and tensor.name in tokenizer.model_input_names
        and (tensor != contract.TOKEN_TYPE_IDS or has_token_types(model))
    )


def has_token_types(model: PreTrainedModel) -> bool:
    """Whether the model tells a pair's texts apart by types; RoBERTa has one for all, whatever its tokenizer gives."""
    return getattr(model.config, "type_vocab_size", None) != 1


def export(
    model: PreTrainedModel, names: tuple[str, ...], per: Per, path: Path, *, packed: bool,
    precision: Precision = "fp32",
) -> Graph:  # fmt: skip
    """Trace `model` into an ONNX file at `path` with dynamic shapes; ExportError where it cannot be.

    `names` are the tokenizer's tensors that it takes, `per` is what it gives a row of logits for. `packed`: its rows
    hold several texts each, see `Graph`. In `precision` fp16 or bf16 the graph itself computes in that (see `halved`);
    logits are float in any case.
    Beyond 2 GB the weights become files beside it, so the folder should be its own.
    """
    opset = _OPSET
    if precision != "fp32":
        model, opset = halved(model, _TYPES[precision]), _TYPED_OPSET
    per_text = per == "text" or (per == "mask" and packed)  # else all tokens' logits leave it, and some are picked
    example = _example(names, model, packed=packed, per_text=per_text)
    encoder = Packed(model, tuple(example)) if packed else _Padded(model, tuple(example))
    axes: dict[str, dict[int, str]] = {name: {0: "rows", 1: "length"} for name in example}
    if FIRST_TOKENS in axes:
        axes[FIRST_TOKENS] = {0: "texts"}
    axes["logits"] = {0: "texts" if packed else "rows"} if per_text else {0: "rows", 1: "length"}
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "input_names": list(example), "output_names": ["logits"], "dynamic_axes": axes, "opset_version": opset,
        "dynamo": False,
    }  # fmt: skip
    try:
        with torch.inference_mode(), warnings.catch_warnings(), _tabulated_buckets(model):
            # The tracer warns of every Python branch it fixes; parity over many lengths shows whether one matters.
            warnings.simplefilter("ignore")
            encoder(*example.values())  # fills the tables
            torch.onnx.export(encoder, tuple(example.values()), str(path), **options)
        graph = onnx.load(str(path), load_external_data=False)
        few = pick_early(graph) if per_text else ()
        if few:
            onnx.save(graph, str(path))
        onnx.checker.check_model(str(path))
    except OSError:
        raise  # a disk's fault, not the graph's
    except Exception as error:  # the tracer raises whatever the model's code does
        detail = str(error).strip().split("\n", maxsplit=1)[0]
        raise ExportError(f"{type(model).__name__} cannot be exported to ONNX: {detail}") from error
    kept = tuple(tensor.name for tensor in graph.graph.input)
    return Graph(
        path,
        tuple(name for name in example if name in kept),
        packed,
        tuple(node.name for node in few if node.op_type == "MatMul"),
    )


@contextmanager
def _tabulated_buckets(model: PreTrainedModel) -> Iterator[None]:
    """Make the graph look up the buckets of relative positions instead of computing them.

    The models compute them with logarithms in floating point. In bf16 or half that puts many of them into wrong
    buckets, and in fp32 an engine's logarithm may round another way.
    """
    reach = max(_LONGEST_ROW, int(getattr(model.config, "max_position_embeddings", 0)))
    mpnet = _tabulated(MPNetEncoder.relative_position_bucket, reach)
    log_bucket = _tabulated(deberta.make_log_bucket_position, reach)
    with (
        patch.object(MPNetEncoder, "relative_position_bucket", staticmethod(mpnet)),
        patch.object(deberta, "make_log_bucket_position", log_bucket),
    ):
        yield


def _tabulated(function: Callable[..., torch.Tensor], reach: int) -> Callable[..., torch.Tensor]:
    """`function` of a relative position from -reach to reach, read from a table that the first call makes."""
    tables: dict[str, torch.Tensor] = {}

    def look_up(relative_position: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        key = repr((args, kwargs))
        if key not in tables:
            tables[key] = function(torch.arange(-reach, reach + 1), *args, **kwargs).long()
        return tables[key][relative_position + reach]

    return look_up


def _example(
    names: tuple[str, ...], model: PreTrainedModel, *, packed: bool, per_text: bool
) -> dict[str, torch.Tensor]:
    """Two rows of 16, the second one padded, so that the trace holds what masks do; two texts in each if `packed`."""
    vocabulary, pad_id = int(model.config.vocab_size), int(model.config.pad_token_id or 0)
    ids = torch.randint(0, vocabulary, (2, 16), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    mask = torch.ones_like(ids)
    ids[1, 11:], mask[1, 11:] = pad_id, 0
    arrays = {
        contract.INPUT_IDS.name: ids,
        contract.ATTENTION_MASK.name: mask,
        contract.TOKEN_TYPE_IDS.name: torch.zeros_like(ids),
    }
    if not packed:
        return {name: arrays[name] for name in names}
    segments = torch.tensor([[1] * 6 + [2] * 10, [1] * 7 + [2] * 4 + [0] * 5], dtype=torch.int32)
    positions = [[*range(6), *range(10)], [*range(7), *range(4), *([0] * 5)]]
    example = {name: arrays[name] for name in names if name != contract.ATTENTION_MASK.name}
    example[POSITION_IDS] = torch.tensor(positions, dtype=torch.int32)
    example[SEGMENT_IDS] = segments
    if per_text:
        example[FIRST_TOKENS] = torch.tensor([0, 6, 16, 23], dtype=torch.int32)
    return example
