"""The running server over gRPC, with the key to what is closed to others."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from tritext import access
from tritext.errors import ServeError
from tritext.serve.tls import Trust

Arrays = Mapping[str, NDArray[Any]]
Infer = Callable[[str, Arrays], Arrays]

# The header that carries the key; gRPC puts its own words in front.
KEY_HEADER: Final = "tritext-key"
_GRPC_KEY_HEADER: Final = f"triton-grpc-protocol-{KEY_HEADER}"
DATATYPES: Final = {"O": "BYTES", "i": "INT32", "f": "FP32"}


class RemoteBase(ABC):
    """A connection. Every call takes at most `timeout` seconds and raises ServeError where it fails."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def _infer(self, model: str, arrays: Arrays) -> Arrays: ...

    @abstractmethod
    def _unload(self, model: str) -> None: ...

    @abstractmethod
    def _index(self) -> Mapping[str, str]:
        """Every model in the repository, and its state."""

    def infer(self, model: str, arrays: Arrays) -> Arrays:
        """Ask `model` with one request; ServeError, which names it, where it answers with an error."""
        try:
            return self._infer(model, arrays)
        except ServeError as error:
            raise ServeError(f"{model} answers with an error: {error}") from error

    def unload(self, models: set[str], deadline: float) -> bool:
        """Take no more requests for `models`; whether they have answered the last ones by `deadline` (monotonic)."""
        for model in models:
            self._unload(model)
        while self._loaded() & models:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def _loaded(self) -> set[str]:
        """The models that still hold something: ready, loading, or answering their last requests."""
        return {name for name, state in self._index().items() if state not in {"", "UNAVAILABLE"}}


class Remote(RemoteBase):
    """A connection over gRPC to `url` (HOST:PORT), with the `key` to what is closed and the `api_key` to the rest.

    Encrypted where `trust` says by which certificate the server is known.
    """

    def __init__(
        self, url: str, key: str, timeout: float = 30.0, *, api_key: str | None = None, trust: Trust | None = None
    ) -> None:
        super().__init__(timeout)
        # A proxy from the environment is never on the way to one's own child.
        options = [("grpc.enable_http_proxy", 0), *(trust.channel_options if trust else ())]
        credentials = trust.credentials() if trust else None
        self._client: Any = triton.InferenceServerClient(url, creds=credentials, channel_args=options)
        self._headers = {_GRPC_KEY_HEADER: key, **access.headers(api_key)}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _infer(self, model: str, arrays: Arrays) -> Arrays:
        inputs = []
        for name, array in arrays.items():
            tensor = triton.InferInput(name, array.shape, DATATYPES[array.dtype.kind])
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        result = self._call(self._client.infer, model, inputs)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def _unload(self, model: str) -> None:
        self._call(self._client.unload_model, model)

    def _index(self) -> Mapping[str, str]:
        return {model.name: model.state for model in self._call(self._client.get_model_repository_index).models}

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args, client_timeout=self.timeout, headers=self._headers)
        except (triton.InferenceServerException, grpc.RpcError) as error:
            raise ServeError(str(error)) from error


def text(value: str) -> NDArray[np.object_]:
    """One text as a BYTES tensor [1, 1]."""
    return np.array([[value.encode()]], dtype=np.object_)
