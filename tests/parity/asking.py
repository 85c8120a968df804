"""Two ways to ask a built model: over gRPC, and in this process. Both give the answers in the pipeline's form."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from reference import Answer, Item

from tritext.errors import InvalidInput, TritextError
from tritext.pipeline import Pipeline
from tritext.stages.base import Request

Tensors = Mapping[str, NDArray[Any]]


class Ask(Protocol):
    """Send `items` in one request; a refusal raises InvalidInput."""

    def __call__(self, items: Sequence[Item], **parameters: Any) -> Tensors: ...


def inputs_of(items: Sequence[Item]) -> dict[str, NDArray[np.object_]]:
    """TEXT [N, 1], and TEXT_PAIR [N, 1] where the items are pairs."""
    if isinstance(items[0], tuple):
        return {"TEXT": _bytes([first for first, _ in items]), "TEXT_PAIR": _bytes([second for _, second in items])}
    return {"TEXT": _bytes([item for item in items if isinstance(item, str)])}


def _bytes(texts: Sequence[str]) -> NDArray[np.object_]:
    array = np.empty((len(texts), 1), dtype=np.object_)
    array[:, 0] = [text.encode() for text in texts]
    return array


class InProcess:
    """Asks the stages directly."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def __call__(self, items: Sequence[Item], **parameters: Any) -> Tensors:
        (answer,) = self.pipeline.run([Request(inputs_of(items), parameters)])
        if isinstance(answer, TritextError):
            raise answer
        return answer.tensors


class OverGrpc:
    """Asks a server, with NVIDIA's client and none of our code."""

    def __init__(self, client: triton.InferenceServerClient, model: str) -> None:
        self._client, self._model = client, model

    def __call__(self, items: Sequence[Item], **parameters: Any) -> Tensors:
        inputs = []
        for name, array in inputs_of(items).items():
            tensor = triton.InferInput(name, array.shape, "BYTES")
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        try:
            result = self._client.infer(self._model, inputs, parameters=parameters, client_timeout=60)
        except triton.InferenceServerException as error:
            if error.status() != "StatusCode.INVALID_ARGUMENT":
                raise
            raise InvalidInput(error.message()) from error
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def rows(tensors: Tensors) -> list[list[Answer]]:
    """Each row's answers; what lies behind COUNT must be padding."""
    answers = []
    fields = [name for name in ("LABEL", "SCORE", "WORD", "START", "END") if name in tensors]
    for row, count in enumerate(tensors["COUNT"][:, 0]):
        for name in fields:
            assert not any(tensors[name][row, count:]), name
        found = [{name.lower(): _plain(tensors[name][row, k]) for name in fields} for k in range(count)]
        answers.append(found)
    return answers


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value.item()
