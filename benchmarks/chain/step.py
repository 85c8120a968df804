"""A step of the Python backend that does nothing, or calls the engine of a built model on always the same tokens.

Whatever comes in, an array of the same size goes out. Parameters of its configuration: `repository` and `model` say
whose engine, `root` where this project is; without them there is nothing to do.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Loaded by Triton."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Compile the engine, where there is one."""
        given = json.loads(args["model_config"])["parameters"]
        parameters = {name: value["string_value"] for name, value in given.items()}
        self._answer = np.zeros(16, np.float32)
        self._work: Callable[[], Any] = lambda: None
        if parameters:
            sys.path.insert(0, parameters["root"])
            from benchmarks.bare import Bare, built

            bare = Bare(built(Path(parameters["repository"]), parameters["model"]))
            calls = bare.full(1, 16)
            self._work = lambda: bare.seconds(calls)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each of `requests` by itself."""
        answers = []
        for _ in requests:
            self._work()
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", self._answer)]))
        return answers
