"""The running server over HTTP: for gRPC that only answers callers with a certificate of their own."""

import http.client
import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

import numpy as np

from tritext import access
from tritext.errors import ServeError
from tritext.serve.remote import DATATYPES, KEY_HEADER, Arrays, RemoteBase

_DTYPES: Final = {"BYTES": np.object_, "INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_, "UINT8": np.uint8}


class HttpRemote(RemoteBase):
    """`Remote`, over HTTP; `url` is http://HOST:PORT. A connection for each call."""

    def __init__(self, url: str, key: str, timeout: float = 30.0, *, api_key: str | None = None) -> None:
        super().__init__(timeout)
        self._netloc = urlsplit(url).netloc
        self._headers = {KEY_HEADER: key, **access.headers(api_key)}

    def close(self) -> None:
        """Nothing is open."""

    def _infer(self, model: str, arrays: Arrays) -> Arrays:
        inputs = [
            {"name": name, "shape": array.shape, "datatype": DATATYPES[array.dtype.kind], "data": _listed(array)}
            for name, array in arrays.items()
        ]
        answer = self._post(f"/v2/models/{quote(model)}/infer", {"inputs": inputs})
        return {
            output["name"]: np.array(output["data"], dtype=_DTYPES[output["datatype"]]).reshape(output["shape"])
            for output in answer["outputs"]
        }

    def _unload(self, model: str) -> None:
        self._post(f"/v2/repository/models/{quote(model)}/unload", {})

    def _index(self) -> Mapping[str, str]:
        return {entry["name"]: entry.get("state", "") for entry in self._post("/v2/repository/index", {})}

    def _post(self, path: str, body: Any) -> Any:
        connection = http.client.HTTPConnection(self._netloc, timeout=self.timeout)
        try:
            connection.request("POST", path, json.dumps(body), self._headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServeError(f"Nobody answers at http://{self._netloc}: {error}") from error
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise ServeError(f"[HTTP {answer.status}] {_said(content)}")
        return json.loads(content) if content else None


def _listed(array: Any) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]


def _said(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        return content.decode("utf-8", "replace")
