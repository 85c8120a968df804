"""The running server over gRPC, with the key to what is closed to others."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
import numpy as np
import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToJson
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import np_to_triton_dtype

from tritext.errors import ServeError

Arrays = Mapping[str, NDArray[Any]]
Infer = Callable[[str, Arrays], Arrays]

# The header that carries the key; gRPC puts its own words in front.
KEY_HEADER: Final = "tritext-key"
_GRPC_KEY_HEADER: Final = f"triton-grpc-protocol-{KEY_HEADER}"


class Silence(ServeError):
    """No answer came in time."""


class Remote:
    """A connection, for any number of threads. Every call takes at most `timeout` seconds, or as many as it is given.

    ServeError where a call fails; Silence, which is one, where nothing came back in time.
    """

    def __init__(self, url: str, key: str, timeout: float = 30.0) -> None:
        # A proxy from the environment is never on the way to one's own child.
        self._client: Any = triton.InferenceServerClient(url, channel_args=[("grpc.enable_http_proxy", 0)])
        self._headers = {_GRPC_KEY_HEADER: key}
        self.timeout = timeout

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def infer(self, model: str, arrays: Arrays, *, timeout: float | None = None) -> Arrays:
        """Ask `model` with one request; ServeError, which names it, where it answers with an error."""
        inputs = []
        for name, array in arrays.items():
            tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        try:
            result = self._call(self._client.infer, model, inputs, timeout=timeout)
        except Silence as error:
            raise Silence(f"{model} does not answer: {error}") from error
        except ServeError as error:
            raise ServeError(f"{model} answers with an error: {error}") from error
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def load(self, model: str, config: ModelConfig | None = None, *, timeout: float | None = None) -> None:
        """Load `model`, or load it anew, as its folder says or with `config` in the place of what its folder says."""
        text = None if config is None else MessageToJson(config, preserving_proto_field_name=True)
        self._call(self._client.load_model, model, headers=self._headers, config=text, timeout=timeout)

    def alive(self, *, timeout: float) -> bool:
        """Whether Triton itself says within `timeout` seconds that it lives."""
        try:
            return bool(self._call(self._client.is_server_live, timeout=timeout))
        except ServeError:
            return False

    def calls(self, model: str) -> int:
        """How many batches `model` has computed since it was loaded."""
        found = self._call(self._client.get_inference_statistics, model, headers=self._headers)
        return sum(int(each.execution_count) for each in found.model_stats)

    def start_unload(self, model: str) -> None:
        """Have `model` take no more requests; those that it has go on."""
        self._call(self._client.unload_model, model, headers=self._headers)

    def unload(self, models: set[str], deadline: float) -> bool:
        """Take no more requests for `models`; whether they have answered the last ones by `deadline` (monotonic)."""
        for model in models:
            self.start_unload(model)
        while self._loaded() & models:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _loaded(self) -> set[str]:
        """The models that still hold something: ready, loading, or answering their last requests."""
        index = self._call(self._client.get_model_repository_index, headers=self._headers)
        return {model.name for model in index.models if model.state not in {"", "UNAVAILABLE"}}

    def _call(self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        try:
            return function(*args, client_timeout=timeout or self.timeout, **kwargs)
        except (triton.InferenceServerException, grpc.RpcError) as error:
            status = error.status() if isinstance(error, triton.InferenceServerException) else None
            raise (Silence if status == "StatusCode.DEADLINE_EXCEEDED" else ServeError)(str(error)) from error


def text(value: str) -> NDArray[np.object_]:
    """One text as a BYTES tensor [1, 1]."""
    return np.array([[value.encode()]], dtype=np.object_)
