"""Stands in for Triton's native TensorRT backend: runs the plan's own graph on the CPU, within the plan's profiles.

Triton takes ``<backend-directory>/tensorrt/model.py`` for ``platform: "tensorrt_plan"`` where the native library is
absent. As the native one it gets requests of one shape merged, runs them at once, and refuses what no profile holds.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

CALLS = "TRITEXT_TEST_CALLS"  # environment: a file that gets a line of JSON for each call


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        import os

        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        plan = json.loads((folder / "model.plan").read_text())
        named = config["instance_group"][0]["profile"]
        self._profiles = [plan["profiles"][int(number)] for number in named]
        self._batched = config["max_batch_size"] > 0
        self._inputs = [tensor["name"] for tensor in config["input"]]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(folder / plan["graph"], options, ["CPUExecutionProvider"])
        self._calls = os.environ.get(CALLS)
        self._name = args["model_name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        sent = [{n: pb_utils.get_input_tensor_by_name(r, n).as_numpy() for n in self._inputs} for r in requests]
        if not self._batched and len(sent) > 1:
            raise ValueError("a model without batches got several requests at once")
        try:
            together = {name: np.concatenate([each[name] for each in sent]) for name in self._inputs}
        except ValueError as error:  # Triton merges equal shapes only
            return [self._refused(f"requests of several shapes were merged: {error}") for _ in requests]
        shapes = {name: list(array.shape) for name, array in together.items()}
        if self._calls:
            with Path(self._calls).open("a") as file:
                file.write(json.dumps({"model": self._name, "requests": len(requests), "shapes": shapes}) + "\n")
        if not any(self._holds(profile, shapes) for profile in self._profiles):
            return [self._refused(f"no profile of the plan holds {shapes}") for _ in requests]
        (logits,) = self._session.run(["logits"], together)
        if not self._batched:
            return [self._answer(logits)]
        ends = np.cumsum([len(each[self._inputs[0]]) for each in sent])[:-1]
        return [self._answer(part) for part in np.split(logits, ends)]

    @staticmethod
    def _holds(profile: dict[str, Any], shapes: dict[str, list[int]]) -> bool:
        return all(
            len(shape) == len(profile[name][0])
            and all(
                low <= size <= high for low, size, high in zip(profile[name][0], shape, profile[name][2], strict=True)
            )
            for name, shape in shapes.items()
        )

    @staticmethod
    def _answer(logits: np.ndarray) -> Any:
        return pb_utils.InferenceResponse([pb_utils.Tensor("logits", np.ascontiguousarray(logits))])

    @staticmethod
    def _refused(message: str) -> Any:
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
