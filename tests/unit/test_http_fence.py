"""The fence in front of HTTP, before a stand-in for Triton that answers as it is told."""

import asyncio
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tritext.calls import Calls
from tritext.serve import http_response
from tritext.serve.http_fence import MAX_HELD, HttpFence
from tritext.serve.http_request import Head, Refused, check_json
from tritext.serve.shedding import Shedder

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


class Behind:
    """A server in place of Triton's: keeps what it is asked, says `answer` to all of it."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.asked = answer, bytearray()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):  # who hangs up
            while head := _head(connection):
                self.asked += head
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
                while size:
                    size -= len(connection.recv(min(size, 1 << 20)))
                connection.sendall(self.answer)

    def close(self) -> None:
        self._listening.close()


def _head(connection: socket.socket) -> bytes:
    found = b""
    while not found.endswith(b"\r\n\r\n"):
        piece = connection.recv(1)
        if not piece:
            return b""
        found += piece
    return found


Started = Callable[[bytes], tuple[HttpFence, Behind, Shedder]]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    """Starts a fence in front of a server with one answer."""
    running: list[tuple[HttpFence, Behind]] = []

    def start(answer: bytes) -> tuple[HttpFence, Behind, Shedder]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        behind = Behind(answer)
        shedder = Shedder(Calls(tmp_path / "calls"), 0.0, lambda _: None)
        fence = HttpFence("127.0.0.1", port, behind.port, itertools.count(1), shedder)
        fence.start()
        running.append((fence, behind))
        return fence, behind, shedder

    yield start
    for fence, behind in running:
        fence.stop()
        behind.close()


def connected(fence: HttpFence) -> socket.socket:
    return socket.create_connection(("127.0.0.1", fence._port), timeout=30)


def said(connection: socket.socket) -> bytes:
    """All of it, until the other side has no more to say."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def until(condition: Callable[[], bool], patience: float = 20.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "document",
    [
        b"[]" * 65 + b'"' + b'\\"' * 500_000,  # took an hour, in which the process did nothing else
        b"[]" * 65 + b'"' + b"\\" * 1_000_001,
        b'["' + b"[" * 1_000_000 + b'"]',
        b"[" * 64 + b"]" * 64,
    ],
    ids=["a string without end", "ends in its middle", "brackets in a string", "as deep as may be"],
)
def test_json_is_looked_through_once_whatever_it_is(document: bytes) -> None:
    check_json(document)


@pytest.mark.parametrize("document", [b"[" * 65, b'{"a":' * 65 + b'"' + b'\\"' * 500_000, b'"["' + b"[{" * 33])
def test_json_that_is_nested_too_deep_is_refused(document: bytes) -> None:
    with pytest.raises(Refused, match="more than 64 deep"):
        check_json(document)


def test_json_of_very_many_pieces_is_refused() -> None:
    with pytest.raises(Refused, match="more than 4,194,304 strings and arrays"):
        check_json(b"[" + b"{}," * 2_200_000)


@pytest.mark.parametrize(
    ("fields", "goes_on"),
    [
        ((), True),
        (((b"Connection", b"keep-alive"), (b"connection", b"te")), True),
        (((b"Connection", b"Close"),), False),
        (((b"Connection", b"close, TE"),), False),
        (((b"Connection", b"TE"), (b"Connection", b"close")), False),
    ],
)
def test_a_caller_says_whether_it_goes_on(fields: tuple[tuple[bytes, bytes], ...], *, goes_on: bool) -> None:
    assert Head(b"GET", b"/", b"1", fields).goes_on is goes_on


def test_one_request_gets_one_answer_however_many_connection_headers_it_has(started: Started) -> None:
    fence, _, _ = started(OK)
    with closing(connected(fence)) as connection:
        for last in (b"te", b"close"):
            connection.sendall(b"GET /v2 HTTP/1.1\r\nConnection: keep-alive\r\nConnection: %s\r\n\r\n" % last)
        assert said(connection) == OK * 2


def test_how_much_is_json_is_only_believed_where_triton_looks_at_it(started: Started) -> None:
    fence, behind, _ = started(OK)
    header = b"Inference-Header-Content-Length: 2"
    deep = b"{}" + b"[" * 65
    for path, status in ((b"/v2/models/m/infer", b"200"), (b"/v2/models/m/generate", b"400"), (b"/v2/x", b"400")):
        with closing(connected(fence)) as connection:
            connection.sendall(b"POST %s HTTP/1.1\r\nConnection: close\r\n%s\r\nContent-Length: %d\r\n\r\n%s"
                               % (path, header, len(deep), deep))  # fmt: skip
            assert said(connection)[9:12] == status
    assert behind.asked.count(header) == 1
    with closing(connected(fence)) as connection:
        start = b"POST /v2/models/m/generate HTTP/1.1\r\nConnection: close\r\n"
        connection.sendall(start + header + b"\r\nContent-Length: 2\r\n\r\n{}")
        assert said(connection) == OK
    assert behind.asked.count(header) == 1


def test_a_caller_of_http_1_0_gets_no_chunks(started: Started) -> None:
    fence, _, _ = started(CHUNKED)
    with closing(connected(fence)) as connection:
        connection.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
        assert said(connection) == b"HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\nabcde"
    with closing(connected(fence)) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert said(connection) == CHUNKED


def test_whoever_does_not_read_keeps_nothing_from_others(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_response, "STALLED", 2.0)
    size = 30 << 20
    fence, _, shedder = started(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    answered: list[int] = []
    monkeypatch.setattr(shedder, "answered", answered.append)
    asked = b"POST /v2/models/m/generate HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + bytes(size)
    count = MAX_HELD // size + 1  # together they would be more than the fence holds
    callers = [connected(fence) for _ in range(count)]
    try:
        for number, caller in enumerate(callers, start=1):
            caller.sendall(asked)
            until(lambda number=number: len(answered) == number)  # Triton has done its work, nobody has read it
        assert fence._held == 0
        until(lambda: fence.answering == 0)  # and they are not waited for
    finally:
        for caller in callers:
            caller.close()


def test_a_caller_who_was_just_refused_is_no_error_at_the_end(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    fence, _, _ = started(OK)
    with closing(connected(fence)) as connection, caplog.at_level(logging.ERROR, "asyncio"):
        connection.sendall(b"nonsense\r\n\r\n")
        assert _head(connection).startswith(b"HTTP/1.1 400 ")
        assert fence.stop()
    assert caplog.messages == []


def test_many_may_wait_to_be_accepted(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    listen = asyncio.start_server

    async def noted(*arguments: object, backlog: int = 100, **options: object) -> asyncio.Server:
        asked.append(backlog)
        return await listen(*arguments, backlog=backlog, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "start_server", noted)
    started(OK)
    assert asked == [512]
