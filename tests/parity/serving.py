"""Small models of one task, built and served by the real Triton, and asked in every way a user has."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

import checkpoints
from building import quick_build
from tritext.errors import InvalidInput
from tritext.serve import Server


@dataclass(frozen=True)
class Served:
    """A server with the models of `repository`."""

    repository: Path
    server: Server

    def infer(self, model: str, inputs: Mapping[str, Sequence[Sequence[str]]], **parameters: Any) -> dict[str, Any]:
        """Over gRPC, with NVIDIA's client: the outputs as arrays. InvalidInput where the server says so."""
        tensors = []
        for name, rows in inputs.items():
            array = np.array([[text.encode() for text in row] for row in rows], dtype=np.object_)
            tensors.append(triton.InferInput(name, array.shape, "BYTES").set_data_from_numpy(array))
        with triton.InferenceServerClient(self.server.grpc_url) as client:
            try:
                result = client.infer(model, tensors, parameters=parameters, client_timeout=60)
            except triton.InferenceServerException as error:
                if error.status() != "StatusCode.INVALID_ARGUMENT":
                    raise
                raise InvalidInput(error.message()) from error
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def generate(self, model: str, body: Mapping[str, Any]) -> Any:
        """Over HTTP, flat JSON."""
        url = f"{self.server.http_url}/v2/models/{model}/generate"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            return json.load(response)

    def command(self, *arguments: str) -> list[Any]:
        """``tritext classify … --json``: an object a line."""
        command = [sys.executable, "-c", "from tritext.cli import main; main()", "classify", *arguments, "--json"]
        done = subprocess.run(
            [*command, "--url", self.server.grpc_url], capture_output=True, text=True, timeout=120, check=True
        )
        return [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def serving(repository: Path) -> Iterator[Served]:
    """Serve all models of `repository`."""
    with Server(repository, grpc_port=0, http_port=0, metrics_port=0, latency_goal=60) as server:
        server.wait_ready()
        yield Served(repository, server)


def build_all(folder: Path, variants: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> Path:
    """Build each checkpoint under its name, with its options, in fp32; gives the repository."""
    for name, (checkpoint, options) in variants.items():
        quick_build(checkpoint, folder / "repository", name, **{"engine": "openvino", **options})
    return folder / "repository"


def floats(array: NDArray[Any]) -> list[list[float]]:
    """Rows of numbers."""
    return [[float(value) for value in row] for row in array]


ARCHITECTURES = checkpoints.ARCHITECTURES
