"""The supervisor's own HTTP endpoint: /ready, /ready/MODEL, /live and /metrics.

Triton says that it is ready also where a step of a model is dead; this says what the supervisor's last inference found.
"""

import json
import socket
import socketserver
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from tritext.serve.endpoints import refused
from tritext.serve.status import Status

FLAG: Final = "--health-port"
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = "application/json"
_CALLERS: Final = 64

Page = tuple[HTTPStatus, str, str]  # status, content type, body


class Readiness:
    """Serves `status` at ``host:port`` from a thread of its own, while its ``with`` block runs.

    ServeError where the port cannot be had; 0 picks a free one.
    """

    def __init__(self, status: Status, host: str, port: int) -> None:
        family: Any = type("Server", (_Server,), {"address_family": _family(host)})
        handler = type("Handler", (_Handler,), {"pages": staticmethod(lambda path: _page(status, path))})
        try:
            self._server = family((host, port), handler)
        except (OSError, OverflowError) as error:
            raise refused(host, FLAG, port, error) from error

    @property
    def port(self) -> int:
        """The port, also where it was free to choose."""
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="readiness", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def _page(status: Status, path: str) -> Page:
    document = status.document()
    match path.strip("/").split("/"):
        case ["live"]:
            return HTTPStatus.OK, _JSON, json.dumps({"live": True})
        case ["metrics"]:
            return HTTPStatus.OK, _PROMETHEUS, status.metrics()
        case ["ready"]:
            return _code(is_ready=document["ready"]), _JSON, json.dumps(document)
        case ["ready", model] if model in document["models"]:
            found = document["models"][model]
            is_ready = found["ready"] and document["reason"] is None
            return _code(is_ready=is_ready), _JSON, json.dumps({**found, "ready": is_ready})
    return HTTPStatus.NOT_FOUND, _JSON, json.dumps({"error": "There are /ready, /ready/MODEL, /live and /metrics."})


def _code(*, is_ready: bool) -> HTTPStatus:
    return HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _Server(ThreadingHTTPServer):
    """Takes so many callers at a time, hangs up on more, and says nothing of those that hang up themselves."""

    daemon_threads = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._places = threading.BoundedSemaphore(_CALLERS)
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # the library's own looks its name up, which may take seconds
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        del request, client_address


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # seconds that a caller may take to say what it wants
    pages: ClassVar[Callable[[str], Page]]

    def do_HEAD(self) -> None:
        self._send()

    def do_GET(self) -> None:
        self.wfile.write(self._send())

    def _send(self) -> bytes:
        """The head of a page; its body."""
        code, content_type, text = type(self).pages(self.path.partition("?")[0])
        body = (text if text.endswith("\n") else f"{text}\n").encode()
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return body

    def version_string(self) -> str:
        return "tritext"

    def log_message(self, *_: object) -> None:
        """Probes come every few seconds; nobody wants to read of each."""
