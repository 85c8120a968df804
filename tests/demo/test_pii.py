"""The pii demo's checkpoint against the ONNX model it was made from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo import pii

onnxruntime = pytest.importorskip("onnxruntime")

TEXTS = (Path(pii.__file__).parent / "texts" / "pii.txt").read_text("utf-8").splitlines()
# Scripts that the tokenizer splits unlike Latin, an empty text, and one beyond 128 tokens.
HARD_TEXTS = ["", "田中太郎は東京都港区に住んでいます。", "Меня зовут Иван Петров.", " ".join(TEXTS)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pii.build_checkpoint(tmp_path_factory.mktemp("demo") / "pii")


def test_unpacks_low_bits_first_around_eight() -> None:
    packed = np.array([[[0x98, 0x07], [0xF0, 0x88]]], dtype=np.uint8)
    scales = np.array([[1.0, 0.5]], dtype=np.float32)
    expected = [[0, 1, -1, -8, -4, 3.5, 0]]  # the eighth is filling: K is 7
    assert pii.unpack_4_bits(packed, scales, 7).tolist() == expected


def test_logits_are_those_of_the_onnx_model(checkpoint: Path) -> None:
    session = onnxruntime.InferenceSession(
        pii.model_dir() / "onnx" / "model_q4.onnx", providers=["CPUExecutionProvider"]
    )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    worst = 0.0
    for text in TEXTS + HARD_TEXTS:
        encoded = tokenizer(text, return_tensors="np")
        (expected,) = session.run(None, {name: encoded[name] for name in encoded})
        with torch.inference_mode():
            actual = model(**{name: torch.from_numpy(encoded[name]) for name in encoded}).logits
        worst = max(worst, float(np.abs(actual.numpy() - expected).max()))
    print(f"largest difference of a logit: {worst:.2e}")
    assert worst < 1e-3


def test_loads_completely_and_limits_to_512(checkpoint: Path) -> None:
    model, info = AutoModelForTokenClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.id2label[1] == "B-GIVEN_NAME"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.model_max_length == 512
    assert len(tokenizer("word " * 1000, truncation=True)["input_ids"]) == 512


def test_finds_a_name_and_an_address(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    encoded = tokenizer(TEXTS[0], return_tensors="pt")
    with torch.inference_mode():
        ids = model(**encoded).logits.argmax(-1)[0].tolist()
    found = {model.config.id2label[index][2:] for index in ids if index}
    assert {"GIVEN_NAME", "SURNAME", "EMAIL", "PHONE"} <= found


def test_same_bytes_and_skipped_when_done(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = pii.build_checkpoint(tmp_path / "again")
    for path in checkpoint.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    pii.build_checkpoint(again)
    assert "already complete" in capsys.readouterr().out
    (again / "config.json").write_text("{}")  # damaged: made anew
    pii.build_checkpoint(again)
    assert (again / "config.json").read_bytes() == (checkpoint / "config.json").read_bytes()


def test_keeps_the_attribution(checkpoint: Path) -> None:
    card = (checkpoint / "README.md").read_text("utf-8")
    for part in ("National Design Studio", "CC BY 4.0", "Changes made", "without warranty"):
        assert part in card
    assert "Attribution 4.0 International" in (checkpoint / "LICENSE").read_text("utf-8")


def test_leaves_a_folder_with_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match="other files"):
        pii.build_checkpoint(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
