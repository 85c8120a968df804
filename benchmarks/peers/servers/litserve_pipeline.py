"""LitServe around transformers.pipeline, with its batching.

    python litserve_pipeline.py CHECKPOINT PORT [DTYPE] [BATCH_SIZE]

A batch waits 5 ms at most to fill.
"""

import os
import sys

import litserve
import torch
from transformers import pipeline

checkpoint, port, dtype, batch_size = [*sys.argv[1:], *("", "", "float32", "8")[len(sys.argv) - 1 :]]


class Classifier(litserve.LitAPI):
    """Texts to labels; LitServe hands `predict` a list."""

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        torch.set_num_threads(os.cpu_count() or 1)
        self.classifier = pipeline("text-classification", checkpoint, dtype=getattr(torch, dtype), device=device)

    def decode_request(self, request: dict) -> str:
        """The text of a request."""
        return request["text"]

    def predict(self, texts: list[str]) -> list[dict]:
        """Labels and scores."""
        return self.classifier(texts, batch_size=len(texts))

    def encode_response(self, output: dict) -> dict:
        """The answer to a request."""
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=int(batch_size), batch_timeout=0.005, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
