"""Logits to the best label and its score."""

from __future__ import annotations  # Triton has these types only at run time

import json
import os
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Triton's interface to the softmax."""

    def initialize(self, _args: dict) -> None:
        """Read the labels once."""
        config = json.loads((Path(os.environ["EXPORTED_CHECKPOINT"]) / "config.json").read_text(encoding="utf-8"))
        self.labels = config["id2label"]

    def execute(self, requests: list) -> list:
        """One response a request."""
        return [self.label(request) for request in requests]

    def label(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        """LABEL and SCORE [N, 1] of the logits [N, labels]."""
        logits = pb_utils.get_input_tensor_by_name(request, "logits").as_numpy()
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        labels = np.array([[self.labels[str(row.argmax())]] for row in scores], dtype=object)
        best = scores.max(axis=1, keepdims=True).astype(np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("LABEL", labels), pb_utils.Tensor("SCORE", best)])
