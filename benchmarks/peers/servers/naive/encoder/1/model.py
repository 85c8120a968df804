"""Token ids to logits by ONNX Runtime: all requests of a batch in one call, padded to the longest."""

import os
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Triton's interface to the encoder."""

    def initialize(self, _args: dict) -> None:
        """Load the model once; it uses all cores."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        path = Path(os.environ["EXPORTED_CHECKPOINT"]) / "model.onnx"
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list) -> list:
        """Merge, run, split."""
        feeds = {name: self.merge(requests, name) for name in ("input_ids", "attention_mask")}
        feeds["token_type_ids"] = np.zeros_like(feeds["input_ids"])
        (logits,) = self.session.run(["logits"], feeds)
        sizes = [len(pb_utils.get_input_tensor_by_name(request, "input_ids").as_numpy()) for request in requests]
        parts = np.split(logits, np.cumsum(sizes)[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("logits", part)]) for part in parts]

    def merge(self, requests: list, name: str) -> np.ndarray:
        """The tensor of all requests [sum of N, longest]; the padding is 0."""
        tensors = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
        longest = max(tensor.shape[1] for tensor in tensors)
        return np.concatenate([np.pad(tensor, ((0, 0), (0, longest - tensor.shape[1]))) for tensor in tensors])
