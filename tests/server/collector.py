"""An OpenTelemetry collector that keeps what it gets: OTLP over HTTP, as JSON."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """What came in so far."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""

    def spans(self) -> list[dict[str, Any]]:
        """Every span, with its attributes as a plain mapping."""
        sent = [resource for body in list(self.bodies) for resource in json.loads(body)["resourceSpans"]]
        found = [span for resource in sent for scope in resource["scopeSpans"] for span in scope["spans"]]
        return [{**span, "attributes": _plain(span.get("attributes", ()))} for span in found]

    def of_request(self, request_id: str, count: int, seconds: float = 60) -> list[dict[str, Any]]:
        """The `count` spans that carry `request_id`; as many as there are after so many `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            found = [span for span in self.spans() if span["attributes"].get("triton.request_id") == request_id]
            if len(found) >= count or time.monotonic() > deadline:
                return found
            time.sleep(0.1)


def _plain(attributes: Any) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """One that runs."""
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            kept.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        kept.url = f"http://127.0.0.1:{server.server_port}/v1/traces"
        try:
            yield kept
        finally:
            server.shutdown()
            thread.join()
