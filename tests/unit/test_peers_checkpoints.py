from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from benchmarks.checkpoints import LAYERS, SMALL_LAYERS, build_bert_base

TEXTS = Path("demo/texts/spam.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bert_base(tmp_path_factory.mktemp("checkpoints") / "bert-base")


def logits(model: BertForSequenceClassification, checkpoint: Path) -> np.ndarray:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with torch.inference_mode():
        return np.concatenate([model.eval()(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in TEXTS])


def test_it_has_the_shape_of_bert_base(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    model = BertForSequenceClassification(BertConfig(num_labels=2))

    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


def test_doubling_the_width_changes_no_answer(checkpoint: Path) -> None:
    config = BertConfig.from_pretrained(checkpoint, num_hidden_layers=SMALL_LAYERS)
    wide = BertForSequenceClassification.from_pretrained(checkpoint, config=config)
    small = BertForSequenceClassification.from_pretrained(checkpoint.parent / "spam")

    np.testing.assert_allclose(logits(wide, checkpoint), logits(small, checkpoint), atol=1e-4)


def test_both_labels_occur_and_none_is_a_tie(checkpoint: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(checkpoint)
    margins = np.diff(logits(model, checkpoint)).ravel()

    assert model.config.num_hidden_layers == LAYERS
    assert (margins > 0).any()
    assert (margins < 0).any()
    assert np.abs(margins).min() > 0.5


def test_it_is_the_same_bytes_each_time(checkpoint: Path, tmp_path: Path) -> None:
    again = build_bert_base(tmp_path / "bert-base")

    assert (again / "model.safetensors").read_bytes() == (checkpoint / "model.safetensors").read_bytes()
