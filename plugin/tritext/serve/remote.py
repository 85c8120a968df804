"""The running server over gRPC, with the key to what is closed to others."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from tritext.errors import ServeError

Arrays = Mapping[str, NDArray[Any]]
Infer = Callable[[str, Arrays], Arrays]

# The header that carries the key; gRPC puts its own words in front.
KEY_HEADER: Final = "tritext-key"
_GRPC_KEY_HEADER: Final = f"triton-grpc-protocol-{KEY_HEADER}"
_DATATYPES: Final = {"O": "BYTES", "i": "INT32", "f": "FP32"}


class Remote:
    """A connection. Every call takes at most `timeout` seconds and raises ServeError where it fails."""

    def __init__(self, url: str, key: str, timeout: float = 30.0) -> None:
        # A proxy from the environment is never on the way to one's own child.
        self._client: Any = triton.InferenceServerClient(url, channel_args=[("grpc.enable_http_proxy", 0)])
        self._headers = {_GRPC_KEY_HEADER: key}
        self.timeout = timeout

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def infer(self, model: str, arrays: Arrays) -> Arrays:
        """Ask `model` with one request; ServeError, which names it, where it answers with an error."""
        inputs = []
        for name, array in arrays.items():
            tensor = triton.InferInput(name, array.shape, _DATATYPES[array.dtype.kind])
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        try:
            result = self._call(self._client.infer, model, inputs)
        except ServeError as error:
            raise ServeError(f"{model} answers with an error: {error}") from error
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def unload(self, models: set[str], deadline: float) -> bool:
        """Take no more requests for `models`; whether they have answered the last ones by `deadline` (monotonic)."""
        for model in models:
            self._call(self._client.unload_model, model, headers=self._headers)
        while self._loaded() & models:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _loaded(self) -> set[str]:
        """The models that still hold something: ready, loading, or answering their last requests."""
        index = self._call(self._client.get_model_repository_index, headers=self._headers)
        return {model.name for model in index.models if model.state not in {"", "UNAVAILABLE"}}

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, client_timeout=self.timeout, **kwargs)
        except (triton.InferenceServerException, grpc.RpcError) as error:
            raise ServeError(str(error)) from error


def text(value: str) -> NDArray[np.object_]:
    """One text as a BYTES tensor [1, 1]."""
    return np.array([[value.encode()]], dtype=np.object_)
