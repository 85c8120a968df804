"""A Hugging Face hub on this machine, just enough of one that the real `huggingface_hub` downloads from it.

Repositories are folders. `refusals` map a part of a path to a status and the hub's error code, which is how the
real one says that a repository is gated or unknown.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """What is served, and what was asked for."""

    repositories: Mapping[str, Path]
    revisions: tuple[str, ...] = ("main", COMMIT)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def downloaded(self) -> set[str]:
        """Names of the files that were sent."""
        return {path.partition(f"/resolve/{COMMIT}/")[2] for path in self.asked if path.startswith("GET ")} - {""}


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve `hub` at its `url` until the block ends."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        for part, (status, code) in self.hub.refusals.items():
            if part in path:
                return self._send(status, b"<html>no JSON</html>", {"X-Error-Code": code})
        for name, folder in self.hub.repositories.items():
            if path.startswith(f"/api/models/{name}"):
                return self._about(name, folder, path)
            if path.startswith(f"/{name}/resolve/{COMMIT}/"):
                return self._file(folder / path.partition(f"/{COMMIT}/")[2])
        return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None: ...

    def _about(self, name: str, folder: Path, path: str) -> None:
        files = {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        revision = path.partition("/revision/")[2] or "main"
        if revision not in self.hub.revisions:
            return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        answer: object = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        if "/tree/" in path:
            answer = [{"type": "file", "path": file, "size": size, "oid": "0" * 40} for file, size in files.items()]
        return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content = path.read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
