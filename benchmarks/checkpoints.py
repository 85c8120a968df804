"""Make the checkpoints that the benchmarks run on, the same bytes each time.

    python -m benchmarks.checkpoints minilm .demo/checkpoints/spam
    python -m benchmarks.checkpoints bert-base .demo/checkpoints/bert-base

``minilm`` is the demo's spam classifier (6 layers of 384, 23 M parameters). ``bert-base`` has the shape, and so the
speed, of BERT-base-uncased (12 layers of 768, 12 heads, 110 M parameters, vocabulary of 30,522; Devlin et al. 2019)
and no more: it is the demo's classifier made as large, because no fine-tuned BERT-base comes with a package. Its
labels are the small one's on nearly all texts, with margins as clear, so that an engine of low precision is judged
as it would be on a model of use. **Its accuracy means nothing; its shape and speed do.**

How it grows (after Net2Net, Chen et al. 2016, arXiv:1511.05641): every feature, head and neuron stands twice and each
sum takes halves, which leaves the function as it was. Above the six layers come six that nearly repeat their input:
the same two layer norms, and small random weights (fixed seed) in place of their linear maps.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from demo import spam
from demo.checkpoint import build_once, write_json

HEADS: Final = 12
SMALL_LAYERS, LAYERS = 6, 12
# Small enough that six such layers change hardly any label; not zero, which a quantiser has no scale for.
INITIALIZER_RANGE: Final = 0.005
SEED: Final = 0

Array = npt.NDArray[np.float32]


def wide_output(weight: Array) -> Array:
    """[out, in] to [2 out, 2 in]: each output twice, over inputs that stand twice and so count half."""
    return np.tile(weight / 2, (2, 2))


def _wide_heads(tensor: Array) -> Array:
    """Repeat the outputs of a query, key or value map ([out, …]) within each head."""
    by_head = tensor.reshape(HEADS, -1, *tensor.shape[1:])
    twice: Array = np.concatenate([by_head, by_head], axis=1)
    return twice.reshape(-1, *tensor.shape[1:])


def widen(name: str, tensor: Array) -> Array:
    """Return the tensor of twice the hidden size that computes what the small one does, twice over."""
    if ".attention.self." in name:
        wide = _wide_heads(tensor)
        if name.endswith(".weight"):
            wide = np.tile(wide / 2, (1, 2))
        if ".query." in name:  # a dot product doubles, and its divisor (the root of the head's size) grows by root 2
            wide /= np.sqrt(2, dtype=np.float32)
        return wide
    if name.endswith(".attention.output.dense.weight"):  # [out, heads, size]: its inputs stand twice within each head
        by_head = (tensor / 2).reshape(len(tensor), HEADS, -1)
        return np.tile(np.concatenate([by_head, by_head], axis=2).reshape(len(tensor), -1), (2, 1))
    if name == "classifier.weight":
        return np.tile(tensor / 2, (1, 2))
    if name == "classifier.bias":
        return tensor
    if "embeddings." in name and tensor.ndim == 2:
        return np.tile(tensor, (1, 2))
    return np.tile(tensor, 2) if tensor.ndim == 1 else wide_output(tensor)


def repeating_layer(number: int, like: dict[str, Array]) -> dict[str, Array]:
    """Tensors of a layer whose output is nearly its input, given those of the last real layer in `like`.

    A layer norm undoes the one before it, so the last one puts back the mean and the deviation that the real
    layer's output has on average.
    """
    scale, shift = like["output.LayerNorm.weight"], like["output.LayerNorm.bias"]
    random = np.random.default_rng([SEED, number])
    layer = {}
    for name, tensor in sorted(like.items()):
        if name.endswith("LayerNorm.weight"):
            layer[name] = np.ones_like(tensor)
        elif name.endswith("bias"):
            layer[name] = np.zeros_like(tensor)
        else:
            layer[name] = random.normal(0, INITIALIZER_RANGE, tensor.shape).astype(np.float32)
    layer["output.LayerNorm.weight"] *= np.sqrt(np.mean(scale**2) + np.var(shift))
    layer["output.LayerNorm.bias"] += np.mean(shift)
    return layer


def grow(small: dict[str, Array]) -> dict[str, Array]:
    """Return BERT-base's tensors from those of the demo's classifier."""
    tensors = {name: np.ascontiguousarray(widen(name, tensor)) for name, tensor in small.items()}
    prefix = "bert.encoder.layer."
    last = f"{prefix}{SMALL_LAYERS - 1}."
    like = {name.removeprefix(last): tensor for name, tensor in tensors.items() if name.startswith(last)}
    for number in range(SMALL_LAYERS, LAYERS):
        tensors |= {f"{prefix}{number}.{name}": tensor for name, tensor in repeating_layer(number, like).items()}
    return tensors


def _write_bert_base(small: Path, folder: Path) -> None:
    config: dict[str, Any] = json.loads((small / "config.json").read_text(encoding="utf-8"))
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    write_json(folder / "config.json", {**config, **sizes})
    tensors = grow(load_file(small / "model.safetensors"))
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copyfile(small / name, folder / name)


def build_minilm(out: Path) -> Path:
    """Write the demo's spam classifier to `out` unless it is there; return `out`."""
    return spam.build_checkpoint(out)


def build_bert_base(out: Path) -> Path:
    """Write the large classifier to `out` unless it is there, by way of the demo's beside it; return `out`."""
    small = build_minilm(out.parent / "spam")
    written = build_once(
        out, [Path(__file__), small / "model.safetensors"], lambda folder: _write_bert_base(small, folder)
    )
    print(f"{out}: {'written' if written else 'already complete'}")
    return out


CHECKPOINTS: Final = {"minilm": build_minilm, "bert-base": build_bert_base}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in CHECKPOINTS:
        raise SystemExit(f"usage: python -m benchmarks.checkpoints {'|'.join(CHECKPOINTS)} OUT_DIR")
    CHECKPOINTS[sys.argv[1]](Path(sys.argv[2]))
