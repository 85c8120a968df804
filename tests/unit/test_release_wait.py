"""`deploy --wait` and `rollback --wait`: whom they ask, and which of the server's words are about this commit."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tritext.build import release
from tritext.cli import app
from tritext.cli.release import _ask, _await
from tritext.errors import InvalidInput, ServeError
from tritext.repository import CONFIG, BuiltModel
from tritext.serve.readiness import Readiness
from tritext.serve.status import Status

OLD, NEW = "aaaaaaaa", "b7c3a1a8"


@pytest.fixture
def status() -> Status:
    """Of a server whose build `OLD` answers."""
    status = Status()
    status.serve("spam", OLD)
    return status


@pytest.fixture
def url(status: Status) -> Iterator[str]:
    with Readiness(status, "127.0.0.1", 0) as page:
        yield f"http://127.0.0.1:{page.port}/ready"


def commit(repository: Path, at: int) -> BuiltModel:
    """`NEW`, at that time (ns)."""
    path = repository / "spam" / CONFIG
    path.parent.mkdir(exist_ok=True)
    path.write_text("the same in every commit")
    os.utime(path, ns=(at, at))
    return BuiltModel(repository, "spam", NEW)


def test_what_was_said_of_an_earlier_commit_is_not_the_outcome(tmp_path: Path, status: Status, url: str) -> None:
    status.refuse("spam", NEW, "out of memory")
    status.stay_refused("spam", 1_700_000_000_000_000_001)
    model = commit(tmp_path, 1_700_000_000_000_000_002)
    later = threading.Timer(0.5, status.serve, ["spam", NEW])  # the server's next look takes it
    later.start()
    _await(model, url, timeout=30)
    assert not later.is_alive()


@pytest.mark.parametrize("already_known", [True, False])
def test_a_refusal_of_this_commit_is_told_with_its_reason(
    tmp_path: Path, status: Status, url: str, already_known: bool
) -> None:
    model = commit(tmp_path, 1_700_000_000_000_000_002)
    status.refuse("spam", NEW, "out of memory")
    found = threading.Timer(0.0 if already_known else 0.5, status.stay_refused, ["spam", 1_700_000_000_000_000_002])
    found.start()
    with pytest.raises(ServeError, match=f"refuses build {NEW} of spam: out of memory"):
        _await(model, url, timeout=30)


def test_a_refusal_that_is_not_looked_at_again_is_named_when_the_time_is_up(
    tmp_path: Path, status: Status, url: str
) -> None:
    model = commit(tmp_path, 2)
    status.refuse("spam", NEW, "out of memory")
    status.stay_refused("spam", 1)
    with pytest.raises(ServeError, match=r"does not answer .* It refused an earlier commit of it: out of memory\."):
        _await(model, url, timeout=0.5)


def test_a_new_refusal_forgets_the_commit_of_the_one_before(status: Status) -> None:
    status.refuse("spam", NEW, "out of memory")
    status.stay_refused("spam", 1)
    status.refuse("spam", NEW, "its logits differ")
    assert status.document()["models"]["spam"] == {
        "build": OLD, "ready": True, "reason": None, "restarts": 0, "expected": True,
        "refused_build": NEW, "refused": "its logits differ", "refused_commit": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        "localhost:8003/ready",
        "ftp://localhost:8003/ready",
        "http:///ready",
        "http://localhost:abc/ready",
        "http://localhost:0/ready",
        "http://localhost:99999/ready",
        "http://[x/ready",
        "http://localhost:8003/ready now",
        "http://localhost:8003/ready\n",
        "http://localhost:8003/fertigü",
        "",
    ],
)
def test_nothing_is_committed_where_the_address_is_none(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(release, "rollback", never)
    monkeypatch.setattr(release, "deploy", never)
    for command in (["rollback", "repo", "spam"], ["deploy", "staging/spam", "repo"]):
        ran = CliRunner().invoke(app, [*command, "--wait", bad])
        assert isinstance(ran.exception, InvalidInput), ran.output
        assert "which is no address" in str(ran.exception)


@pytest.mark.parametrize("good", ["http://localhost:8003/ready/", "https://proxy/tritext/ready", "http://[::1]:8003/r"])
def test_an_address_is_taken_as_it_is(good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask(url: str) -> dict[str, object]:
        asked.append(url)
        return {"build": NEW, "ready": True}

    monkeypatch.setattr(release, "rollback", lambda *_: commit(tmp_path, 1))
    monkeypatch.setattr("tritext.cli.release._ask", ask)
    ran = CliRunner().invoke(app, ["rollback", str(tmp_path), "spam", "--wait", good])
    assert ran.exit_code == 0, ran.output
    assert asked == [f"{good.removesuffix('/')}/spam"]


@contextmanager
def saying(words: bytes) -> Iterator[str]:
    """A port that answers with these, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            caller, _ = listening.accept()
            with caller:
                caller.recv(1000)
                caller.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/ready/spam"
        thread.join()


@pytest.mark.parametrize(
    "words",
    [
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x7f\xff\xff\xff",  # HTTP/2, as gRPC's port has it
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n[1, 2]",
        b"HTTP/1.1 200 OK\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 404 Not Found\r\n\r\n17",
    ],
)
def test_who_is_no_ready_page_says_nothing(words: bytes) -> None:
    with saying(words) as url:
        assert _ask(url) == {}


def test_nobody_there_says_nothing() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        assert _ask(f"http://127.0.0.1:{taken.getsockname()[1]}/ready/spam") == {}


def test_a_page_that_says_why_it_is_not_ready_is_read() -> None:
    class NotReady(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"ready": false}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), NotReady) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert _ask(f"http://127.0.0.1:{server.server_port}/ready/spam") == {"ready": False}
        thread.join()
