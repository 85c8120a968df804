"""The running server over gRPC, with the key to what is closed to others."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import grpc
import numpy as np
import tritonclient.grpc as triton
from google.protobuf.json_format import MessageToJson
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import np_to_triton_dtype

from tritext import access
from tritext.errors import ServeError
from tritext.serve.tls import Trust

Arrays = Mapping[str, NDArray[Any]]
Infer = Callable[[str, Arrays], Arrays]

# The header that carries the key; gRPC puts its own words in front.
KEY_HEADER: Final = "tritext-key"
_GRPC_KEY_HEADER: Final = f"triton-grpc-protocol-{KEY_HEADER}"
# Our own child, which is asked before it listens: try again soon, where the default waits up to two minutes.
_RECONNECT: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
)


_FAREWELL: Final = 1.0  # seconds: a thread of gRPC's that is left may keep a program from ending
_UNTIL_CANCELLED: Final = 60.0  # seconds that a call goes on for which nobody waits any more


class Silence(ServeError):
    """No answer came in time."""


class RemoteBase(ABC):
    """A connection, for any number of threads. Every call takes at most `timeout` seconds, or as many as it is given.

    ServeError where a call fails; Silence, which is one, where nothing came back in time.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def start_unload(self, model: str) -> None:
        """Have `model` take no more requests; those that it has go on."""

    @abstractmethod
    def calls(self, model: str) -> int:
        """How many batches `model` has computed since it was loaded."""

    @abstractmethod
    def alive(self, *, timeout: float) -> bool:
        """Whether Triton itself says within `timeout` seconds that it lives."""

    @abstractmethod
    def _infer(self, model: str, arrays: Arrays, timeout: float) -> Arrays: ...

    @abstractmethod
    def _load(self, model: str, config: str | None, timeout: float) -> None: ...

    @abstractmethod
    def _index(self) -> Mapping[str, str]:
        """Every model in the repository, and its state."""

    def infer(self, model: str, arrays: Arrays, *, timeout: float | None = None) -> Arrays:
        """Ask `model` with one request; ServeError, which names it, where it answers with an error."""
        try:
            return self._infer(model, arrays, timeout or self.timeout)
        except Silence as error:
            raise Silence(f"{model} does not answer: {error}") from error
        except ServeError as error:
            raise ServeError(f"{model} answers with an error: {error}") from error

    def load(self, model: str, config: ModelConfig | None = None, *, timeout: float | None = None) -> None:
        """Load `model`, or load it anew, as its folder says or with `config` in the place of what its folder says."""
        text = None if config is None else MessageToJson(config, preserving_proto_field_name=True)
        self._load(model, text, timeout or self.timeout)

    def unload(self, models: set[str], deadline: float) -> bool:
        """Take no more requests for `models`; whether they have answered the last ones by `deadline` (monotonic)."""
        for model in models:
            self.start_unload(model)
        while self.loaded() & models:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def loaded(self) -> set[str]:
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
        options = [("grpc.enable_http_proxy", 0), *_RECONNECT, *(trust.channel_options if trust else ())]
        credentials = trust.credentials() if trust else None
        self._client: Any = triton.InferenceServerClient(url, creds=credentials, channel_args=options)
        self._headers = {_GRPC_KEY_HEADER: key, **access.headers(api_key)}
        self._unanswered: set[threading.Event] = set()

    def close(self) -> None:
        """Close the connection, and return when gRPC's own threads are done with its calls."""
        self._client.close()
        for answered in list(self._unanswered):
            answered.wait(_FAREWELL)

    def start_unload(self, model: str) -> None:
        """Have `model` take no more requests; those that it has go on."""
        self._call(self._client.unload_model, model)

    def calls(self, model: str) -> int:
        """How many batches `model` has computed since it was loaded."""
        found = self._call(self._client.get_inference_statistics, model)
        return sum(int(each.execution_count) for each in found.model_stats)

    def alive(self, *, timeout: float) -> bool:
        """Whether Triton itself says within `timeout` seconds that it lives."""
        try:
            return bool(self._call(self._client.is_server_live, timeout=timeout))
        except ServeError:
            return False

    def _infer(self, model: str, arrays: Arrays, timeout: float) -> Arrays:
        inputs = []
        for name, array in arrays.items():
            tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        result = self._answer(model, inputs, timeout)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def _answer(self, model: str, inputs: Sequence[Any], timeout: float) -> Any:
        """Wait no longer than `timeout` seconds, but leave the call alone.

        Triton 2.51 may lose others' answers, or crash, where calls are cancelled, as gRPC does at a deadline (its
        issue 7368).
        """
        answered = threading.Event()
        found: list[Any] = []

        def take(result: Any, error: Any) -> None:
            found.extend((result, error))
            self._unanswered.discard(answered)
            answered.set()

        self._unanswered.add(answered)
        try:
            self._call(self._client.async_infer, model, inputs, take, timeout=timeout + _UNTIL_CANCELLED)
        except ServeError:
            self._unanswered.discard(answered)
            raise
        if not answered.wait(timeout):
            raise Silence(f"Nothing came within {timeout:g} s.")
        result, error = found
        if error is not None:
            raise _said(error) from error
        return result

    def _load(self, model: str, config: str | None, timeout: float) -> None:
        self._call(self._client.load_model, model, config=config, timeout=timeout)

    def _index(self) -> Mapping[str, str]:
        return {model.name: model.state for model in self._call(self._client.get_model_repository_index).models}

    def _call(self, function: Callable[..., Any], *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        try:
            return function(*args, client_timeout=timeout or self.timeout, headers=self._headers, **kwargs)
        except (triton.InferenceServerException, grpc.RpcError) as error:
            raise _said(error) from error
        except ValueError as error:  # gRPC's word for a channel that is closed
            raise ServeError(f"The connection is closed: {error}") from error


def _said(error: Exception) -> ServeError:
    status = error.status() if isinstance(error, triton.InferenceServerException) else None
    return (Silence if status == "StatusCode.DEADLINE_EXCEEDED" else ServeError)(str(error))


def text(value: str) -> NDArray[np.object_]:
    """One text as a BYTES tensor [1, 1]."""
    return np.array([[value.encode()]], dtype=np.object_)
