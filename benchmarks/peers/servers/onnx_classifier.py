"""A checkpoint in ONNX Runtime, sorted by length and cut into small batches: texts in, labels and scores out."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

MAX_LENGTH = 512


class OnnxClassifier:
    """`file` of an exported checkpoint, at most `group` texts a call so that little is padded."""

    def __init__(self, folder: Path, file: str, group: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        self.session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        self.group = group

    def __call__(self, texts: list[str]) -> list[dict]:
        """Label and score of each text."""
        encoded = self.tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        order = sorted(range(len(texts)), key=lambda place: len(encoded[place]))
        answers: list[dict] = [{}] * len(texts)
        for start in range(0, len(order), self.group):
            places = order[start : start + self.group]
            for place, answer in zip(places, self._run([encoded[place] for place in places]), strict=True):
                answers[place] = answer
        return answers

    def _run(self, rows: list[list[int]]) -> list[dict]:
        input_ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        attention_mask = np.zeros_like(input_ids)
        for row, ids in enumerate(rows):
            input_ids[row, : len(ids)] = ids
            attention_mask[row, : len(ids)] = 1
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": np.zeros_like(input_ids)}
        (logits,) = self.session.run(["logits"], feeds)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        return [{"label": self.labels[str(row.argmax())], "score": float(row.max())} for row in scores]
