"""Texts to token ids, each request padded to its longest text."""

from __future__ import annotations  # Triton has these types only at run time

import os

import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    """Triton's interface to the tokenizer."""

    def initialize(self, _args: dict) -> None:
        """Load the tokenizer once."""
        self.tokenizer = AutoTokenizer.from_pretrained(os.environ["EXPORTED_CHECKPOINT"])

    def execute(self, requests: list) -> list:
        """One response a request."""
        return [self.tokenize(request) for request in requests]

    def tokenize(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        """Token ids and attention mask [N, tokens]."""
        texts = [text.decode("utf-8") for text in pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()[:, 0]]
        encoded = self.tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="np")
        names = ("input_ids", "attention_mask")
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, encoded[name].astype("int64")) for name in names])
