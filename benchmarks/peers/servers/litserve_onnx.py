"""LitServe around ONNX Runtime, with its batching, each batch sorted by length.

    python litserve_onnx.py EXPORTED_DIR PORT [FILE] [GROUP]

A batch of up to 32 texts is cut into groups of similar length.
"""

import sys
from pathlib import Path

import litserve
from onnx_classifier import OnnxClassifier

folder, port, file, group = [*sys.argv[1:], *("", "", "model_quantized.onnx", "4")[len(sys.argv) - 1 :]]


class Classifier(litserve.LitAPI):
    """Texts to labels; LitServe hands `predict` a list."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - it is the CPU
        """Load the model, in the worker."""
        self.classifier = OnnxClassifier(Path(folder), file, int(group))

    def decode_request(self, request: dict) -> str:
        """The text of a request."""
        return request["text"]

    def predict(self, texts: list[str]) -> list[dict]:
        """Labels and scores."""
        return self.classifier(texts)

    def encode_response(self, output: dict) -> dict:
        """The answer to a request."""
        return output


if __name__ == "__main__":
    api = Classifier(max_batch_size=32, batch_timeout=0.005, api_path="/classify")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=120)
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False, log_level="warning")
