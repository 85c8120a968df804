"""The running server over HTTP: for gRPC that only answers callers with a certificate of their own."""

import http.client
import json
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from tritext import access
from tritext.errors import ServeError
from tritext.serve.remote import KEY_HEADER, Arrays, RemoteBase, Silence


class HttpRemote(RemoteBase):
    """`Remote`, over HTTP; `url` is http://HOST:PORT. A connection for each call."""

    def __init__(self, url: str, key: str, timeout: float = 30.0, *, api_key: str | None = None) -> None:
        super().__init__(timeout)
        try:
            self._netloc = urlsplit(url).netloc
        except ValueError as error:
            raise ServeError(f"{url} is no address: {error}. Write http://HOST:PORT.") from error
        self._headers = {KEY_HEADER: key, **access.headers(api_key)}

    def close(self) -> None:
        """Nothing is open."""

    def start_unload(self, model: str) -> None:
        """Have `model` take no more requests; those that it has go on."""
        self._post(f"/v2/repository/models/{quote(model)}/unload", {})

    def calls(self, model: str) -> int:
        """How many batches `model` has computed since it was loaded."""
        found = self._ask("GET", f"/v2/models/{quote(model)}/stats")
        return sum(int(each["execution_count"]) for each in found["model_stats"])

    def alive(self, *, timeout: float) -> bool:
        """Whether Triton itself says within `timeout` seconds that it lives."""
        try:
            self._ask("GET", "/v2/health/live", timeout=timeout)
        except ServeError:
            return False
        return True

    def _infer(self, model: str, arrays: Arrays, timeout: float) -> Arrays:
        inputs = [
            {
                "name": name,
                "shape": array.shape,
                "datatype": np_to_triton_dtype(array.dtype),
                "data": _listed(array),
            }
            for name, array in arrays.items()
        ]
        answer = self._post(f"/v2/models/{quote(model)}/infer", {"inputs": inputs}, timeout)
        return {
            output["name"]: np.array(output["data"], dtype=triton_to_np_dtype(output["datatype"])).reshape(
                output["shape"]
            )
            for output in answer["outputs"]
        }

    def _load(self, model: str, config: str | None, timeout: float) -> None:
        parameters = {} if config is None else {"parameters": {"config": config}}
        self._post(f"/v2/repository/models/{quote(model)}/load", parameters, timeout)

    def _index(self) -> Mapping[str, str]:
        return {entry["name"]: entry.get("state", "") for entry in self._post("/v2/repository/index", {})}

    def _post(self, path: str, body: Any, timeout: float | None = None) -> Any:
        return self._ask("POST", path, json.dumps(body), timeout)

    def _ask(self, method: str, path: str, body: str | None = None, timeout: float | None = None) -> Any:
        try:
            with closing(http.client.HTTPConnection(self._netloc, timeout=timeout or self.timeout)) as connection:
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
                content = answer.read()
        except TimeoutError as error:
            raise Silence(f"http://{self._netloc} said nothing for {timeout or self.timeout:g} s") from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last: what can be no host's name
            raise ServeError(f"Nobody answers at http://{self._netloc}: {error}") from error
        if answer.status != http.client.OK:
            raise ServeError(f"[HTTP {answer.status}] {_said(content)}")
        try:
            return json.loads(content) if content else {}
        except ValueError as error:
            raise ServeError(f"http://{self._netloc} answers with what is no JSON: {_said(content)[:100]}") from error


def _listed(array: Any) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]


def _said(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content.decode("utf-8", "replace")
