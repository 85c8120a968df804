"""The fence in front of gRPC: what callers do to their calls stays with them, against gRPC's own client and server."""

import contextlib
import errno
import itertools
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

import tritext.calls
from certificates import Authority
from tritext import http2
from tritext.admission import Overload
from tritext.calls import Calls
from tritext.contract import MOST_BYTES
from tritext.errors import ServeError
from tritext.http2 import Malformed, frame, literals
from tritext.serve.endpoints import claim
from tritext.serve.fences import start_fences
from tritext.serve.grpc_fence import GrpcFence
from tritext.serve.grpc_headers import Headers, Passed
from tritext.serve.grpc_relay import AHEAD, Relay
from tritext.serve.shedding import Shedder

METHOD = "/test.Service/Ask"
INFER = "/inference.GRPCInferenceService/ModelInfer"
SPAM, PII = b"\n\x04spam", b"\n\x03pii"  # how a request to a model begins
STREAM = "/test.Service/Talk"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class Backend:
    """A gRPC server that answers `size` bytes for a request of that number, after `go` was set where it says wait."""

    go: threading.Event = field(default_factory=threading.Event)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    cut_off: int = 0  # calls that ended before they were answered
    seconds_left: list[float] = field(default_factory=list)
    headers: list[dict[str, str | bytes]] = field(default_factory=list)

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """`request` is "SIZE" or "SIZE wait", and whatever behind a line feed."""
        self.seconds_left.append(context.time_remaining())
        self.headers.append(dict(context.invocation_metadata()))
        size, _, wait = request.partition(b"\n")[0].partition(b" ")
        self.begun.release()
        if wait:
            assert self.go.wait(30)
        self.cut_off += not context.is_active()
        self.ended.release()
        return b"x" * int(size)

    def infer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """The same, behind the name of a model."""
        return self.answer(request[2 + request[1] :], context)

    def talk(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield self.answer(request, context)


@dataclass
class Place:
    """A backend, the fence before it, and what the latter noted."""

    backend: Backend
    fence: GrpcFence
    address: str
    calls: Calls
    inner: int


def raw(data: bytes) -> bytes:
    return data


@contextmanager
def placed(folder: Path, context: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> Iterator[Place]:
    backend = Backend()
    server = grpc.server(ThreadPoolExecutor(16), options=UNLIMITED)
    handlers = {
        "Ask": grpc.unary_unary_rpc_method_handler(backend.answer, raw, raw),
        "Talk": grpc.stream_stream_rpc_method_handler(backend.talk, raw, raw),
    }
    infer = {"ModelInfer": grpc.unary_unary_rpc_method_handler(backend.infer, raw, raw)}
    for service, methods in (("test.Service", handlers), ("inference.GRPCInferenceService", infer)):
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    inner = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    calls = Calls(folder / "calls")
    shedder = Shedder(calls, 0.0, lambda _: None)
    fence = GrpcFence(address, port, inner, itertools.count(1), calls, shedder, context)
    fence.start()
    try:
        yield Place(backend, fence, f"127.0.0.1:{port}", calls, inner)
    finally:
        backend.go.set()
        fence.stop()
        server.stop(0).wait()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with placed(tmp_path) as made:
        yield made


@contextmanager
def calling(place: Place, method: str = METHOD) -> Iterator[Any]:
    with grpc.insecure_channel(place.address, UNLIMITED) as channel:
        yield channel.unary_unary(method, raw, raw)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_answer_does_not_wait_until_its_caller_has_confirmed_another(place: Place) -> None:
    with calling(place) as ask:
        ask(b"1")
        (tunnel,) = place.fence.tunnels
        connection = tunnel.caller.connection
        assert connection is not None
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("size", [0, 1, 70_000, 20_000_000])
def test_messages_of_any_size_go_both_ways(place: Place, size: int) -> None:
    with calling(place) as ask:
        assert ask(b"%d\n" % size + b"y" * size, timeout=60) == b"x" * size


def test_many_calls_at_once_are_told_apart(place: Place) -> None:
    with calling(place) as ask, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda n: ask(b"%d" % (n % 5_000), timeout=60), range(2_000)))
    assert [len(answer) for answer in answers] == [n % 5_000 for n in range(2_000)]
    assert len({headers[place.calls.header] for headers in place.backend.headers}) == 2_000


@pytest.mark.parametrize("way", ["cancel", "deadline", "hang up"])
def test_the_server_does_not_learn_that_a_call_was_given_up(place: Place, way: str) -> None:
    with calling(place) as ask:
        future = ask.future(b"100000 wait", timeout=0.5 if way == "deadline" else None)
        assert place.backend.begun.acquire(timeout=10)
        if way == "cancel":
            future.cancel()
        elif way == "deadline":
            assert future.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    number = int(place.backend.headers[0][place.calls.header])
    until(lambda: place.calls.is_given_up(number))
    assert place.fence.answering == 0
    place.backend.go.set()
    assert place.backend.ended.acquire(timeout=10)
    assert place.backend.cut_off == 0
    assert min(place.backend.seconds_left) > 1e9  # for ever, to gRPC
    until(lambda: not place.fence.tunnels)


def test_calls_that_are_answered_are_not_taken_for_given_up(place: Place) -> None:
    with calling(place) as ask:
        for _ in range(20):
            ask(b"10", timeout=10)
    until(lambda: not place.fence.tunnels)
    assert not any(place.calls.is_given_up(int(headers[place.calls.header])) for headers in place.backend.headers)


def test_who_gives_up_large_answers_leaves_room_for_the_others(place: Place) -> None:
    """Flow control: 60 MB of answers that nobody takes would fill the connection's window for good."""
    with calling(place) as ask:
        for _ in range(60):
            future = ask.future(b"1000000 wait")
            assert place.backend.begun.acquire(timeout=10)
            future.cancel()
            place.backend.go.set()
            assert place.backend.ended.acquire(timeout=10)
            place.backend.go.clear()
            assert ask(b"2000", timeout=20) == b"x" * 2_000
            assert place.backend.begun.acquire(timeout=10)
            assert place.backend.ended.acquire(timeout=10)
        assert len(ask(b"5000000", timeout=20)) == 5_000_000


@contextmanager
def narrow(place: Place) -> Iterator[socket.socket]:
    """A caller that takes 65,535 bytes, of one answer and of all, and has taken as many of a megabyte on stream 1."""
    host, port = place.address.split(":")
    question = struct.pack(">BI", 0, 7) + b"1000000"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(http2.PREFACE + frame(http2.SETTINGS, 0, 0, b"") + asked(1, question))
        received(connection, http2.WINDOW)
        yield connection


def asked(stream: int, question: bytes, method: str = METHOD) -> bytes:
    headers = literals(
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "here"), ("te", "trailers"),
        ("content-type", "application/grpc"),
    )  # fmt: skip
    return frame(http2.HEADERS, http2.END_HEADERS, stream, headers) + frame(
        http2.DATA, http2.END_STREAM, stream, question
    )


def received(connection: socket.socket, size: int, stream: int = 1) -> None:
    """Take frames until there were so many bytes of answers, all on that stream."""
    frames = http2.Frames()
    while size:
        for kind, _, number, whole in frames.read(connection.recv(1 << 16)):
            if kind == http2.DATA:
                assert number == stream
                size -= len(whole) - http2.FRAME.size


def test_the_rest_of_an_answer_that_is_given_up_is_taken_in_its_callers_place(place: Place) -> None:
    with narrow(place) as connection:
        (tunnel,) = place.fence.tunnels
        connection.sendall(frame(http2.RST_STREAM, 0, 1, struct.pack(">I", http2.CANCEL)))
        connection.sendall(frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", http2.WINDOW)))
        until(lambda: tunnel.relay.is_done)
        assert tunnel.relay.waiting == 0
        connection.sendall(asked(3, struct.pack(">BI", 0, 5) + b"60000"))
        received(connection, 60_005, stream=3)


def test_the_rest_of_an_answer_is_taken_when_its_caller_hangs_up(place: Place) -> None:
    with narrow(place):
        pass
    until(lambda: not place.fence.tunnels)
    assert place.backend.cut_off == 0


def test_who_gives_up_in_the_middle_of_an_answer_or_of_a_question(place: Place) -> None:
    with calling(place) as ask, ThreadPoolExecutor(4) as pool:
        for delay in (0.0, 0.001, 0.003, 0.01, 0.03) * 6:
            asked = [ask.future(b"8000000"), ask.future(b"1\n" + b"y" * 8_000_000)]
            good = pool.submit(ask, b"30000", timeout=30)
            time.sleep(delay)
            for future in asked:
                future.cancel()
            assert good.result() == b"x" * 30_000
    until(lambda: not place.fence.tunnels)


def test_conversations_are_ended_as_if_all_had_been_said(place: Place) -> None:
    with grpc.insecure_channel(place.address) as channel:
        stop = threading.Event()

        def requests() -> Iterator[bytes]:
            yield b"10"
            yield b"20 wait"
            stop.wait(30)

        answers = channel.stream_stream(STREAM, raw, raw)(requests())
        assert next(answers) == b"x" * 10
        assert place.backend.begun.acquire(timeout=10)
        assert place.backend.begun.acquire(timeout=10)
        answers.cancel()
        stop.set()
        until(lambda: place.calls.is_given_up(int(place.backend.headers[0][place.calls.header])))
        place.backend.go.set()
        assert place.backend.ended.acquire(timeout=10)
        assert place.backend.ended.acquire(timeout=10)
    assert place.backend.cut_off == 0


@pytest.mark.parametrize("size", [MOST_BYTES + 1, MOST_BYTES])
def test_a_message_may_be_large_but_not_larger(place: Place, size: int) -> None:
    with calling(place) as ask:
        if size == MOST_BYTES:
            assert ask(b"1\n".ljust(size), timeout=60) == b"x"
            return
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                ask(b"1\n".ljust(size), timeout=60)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
            assert caught.value.details() == "The message is larger than 64 MiB. Send fewer texts at a time."  # type: ignore[attr-defined]
            assert ask(b"1\n".ljust(3_000_000), timeout=60) == b"x"
    assert len(place.backend.headers) == 3
    until(lambda: not place.fence.tunnels)


def test_compressed_messages_are_not_taken(place: Place) -> None:
    """One of a megabyte can become one of a gigabyte."""
    with calling(place) as ask:
        with pytest.raises(grpc.RpcError) as caught:
            ask(b"1\n".ljust(30_000_000), timeout=60, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
        assert "Send it as it is" in caught.value.details()  # type: ignore[attr-defined]
        assert ask(b"1", timeout=10) == b"x"
    assert len(place.backend.headers) == 1


def test_every_message_of_a_conversation_is_looked_at(place: Place) -> None:
    answered = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"10\n".ljust(40_000)
        yield b"20"
        assert answered.wait(10)
        yield b"30\n".ljust(MOST_BYTES + 1)

    with grpc.insecure_channel(place.address, UNLIMITED) as channel:
        answers = channel.stream_stream(STREAM, raw, raw)(requests())
        assert [len(next(answers)) for _ in range(2)] == [10, 20]
        answered.set()
        with pytest.raises(grpc.RpcError, match="larger than 64 MiB"):
            list(answers)


@pytest.fixture
def overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One model has too much to do."""
    monkeypatch.setattr(Shedder, "refusal", lambda _, model: Overload(3.0, 2.0, None) if model == SPAM[2:] else None)


@pytest.mark.parametrize("size", [1, 10_000_000])
@pytest.mark.usefixtures("overloaded")
def test_what_a_model_has_no_time_for_never_gets_to_it(place: Place, size: int) -> None:
    with calling(place, INFER) as ask:
        for _ in range(3):
            refused = [ask.future(SPAM + b"1\n".ljust(size), timeout=30) for _ in range(20)]
            assert ask(PII + b"3\n".ljust(size), timeout=30) == b"xxx"
            assert {future.code() for future in refused} == {grpc.StatusCode.UNAVAILABLE}
            assert {future.details() for future in refused} == {str(Overload(3.0, 2.0, None))}
    assert len(place.backend.headers) == 3
    until(lambda: not place.fence.tunnels)


def test_more_inferences_than_may_go_in_at_once_are_all_answered(place: Place) -> None:
    with calling(place, INFER) as ask:
        futures = [ask.future(SPAM + b"%d" % size, timeout=60) for size in range(3000)]
        assert [len(future.result()) for future in futures] == list(range(3000))


def test_who_gives_up_before_it_may_go_in_is_never_let_in(place: Place) -> None:
    with calling(place, INFER) as ask:
        kept = [ask.future(SPAM + b"1 wait", timeout=60) for _ in range(200)]
        until(lambda: sum(len(tunnel.relay._calls) for tunnel in place.fence.tunnels) == 200)
        given_up = [ask.future(SPAM + b"2 wait", timeout=60) for _ in range(100)]
        until(lambda: sum(tunnel.relay.waiting for tunnel in place.fence.tunnels) == 300)
        for future in given_up:
            future.cancel()
        until(lambda: sum(tunnel.relay.waiting for tunnel in place.fence.tunnels) == 200)
        place.backend.go.set()
        assert {future.result() for future in kept} == {b"x"}
    until(lambda: not place.fence.tunnels)
    assert len(place.backend.headers) == 200
    assert place.backend.cut_off == 0


@pytest.mark.parametrize("size", [10_000, 40_000])
def test_what_was_sent_and_never_let_in_takes_nobodys_room(place: Place, size: int) -> None:
    """More than a caller may send in all before it is told of room."""
    with calling(place, INFER) as ask:
        kept = [ask.future(SPAM + b"1 wait", timeout=60) for _ in range(128)]
        until(lambda: sum(tunnel.relay.waiting for tunnel in place.fence.tunnels) == 128)
        for _ in range(300):
            given_up = ask.future(SPAM + b"2\n".ljust(size), timeout=60)
            until(lambda: sum(tunnel.relay.waiting for tunnel in place.fence.tunnels) == 129)
            given_up.cancel()
            until(lambda: sum(tunnel.relay.waiting for tunnel in place.fence.tunnels) == 128)
        place.backend.go.set()
        assert {future.result() for future in kept} == {b"x"}
        assert ask(SPAM + b"3\n".ljust(3_000_000), timeout=30) == b"xxx"
    assert len(place.backend.headers) == 129


def test_a_message_waits_its_turn_whether_or_not_its_end_was_said(place: Place) -> None:
    """gRPC's server works on it as soon as it is whole."""
    host, port = place.address.split(":")
    with calling(place, INFER) as ask, socket.create_connection((host, int(port)), timeout=10) as connection:
        kept = [ask.future(SPAM + b"1 wait", timeout=60) for _ in range(128)]
        until(lambda: sum(tunnel.relay.waiting for tunnel in place.fence.tunnels) == 128)
        question = SPAM + b"7"
        call = asked(1, struct.pack(">BI", 0, len(question)) + question, INFER)
        head, size = call[: -len(question) - 5 - http2.FRAME.size], len(question) + 5
        open_ended = head + frame(http2.DATA, 0, 1, call[-size:])
        connection.sendall(http2.PREFACE + frame(http2.SETTINGS, 0, 0, b"") + open_ended)
        until(lambda: len(place.fence._shedder._others._outside) == 1)
        connection.sendall(frame(http2.DATA, 0, 1, b"") * 3 + frame(http2.DATA, http2.END_STREAM, 1, b""))
        time.sleep(0.2)
        assert len(place.fence._shedder._others._outside) == 1
        place.backend.go.set()
        received(connection, 7 + 5)
        assert {future.result() for future in kept} == {b"x"}


def test_who_says_the_end_of_its_message_later_is_answered(place: Place) -> None:
    host, port = place.address.split(":")
    question = SPAM + b"7"
    call = asked(1, struct.pack(">BI", 0, len(question)) + question, INFER)
    at = len(call) - len(question) - 5 - http2.FRAME.size
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(http2.PREFACE + frame(http2.SETTINGS, 0, 0, b"") + call[:at])
        connection.sendall(frame(http2.DATA, 0, 1, call[at + http2.FRAME.size :]))
        time.sleep(0.1)
        connection.sendall(frame(http2.DATA, http2.END_STREAM, 1, b""))
        received(connection, 7 + 5)


def test_inferences_are_not_taken_in_streams(place: Place) -> None:
    """Of one stream any number of them could wait in Triton."""
    with grpc.insecure_channel(place.address) as channel:
        talk = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", raw, raw)
        for _ in range(2):
            with pytest.raises(grpc.RpcError, match="Ask with ModelInfer"):
                list(talk(iter([SPAM + b"1", SPAM + b"2"])))
        assert channel.unary_unary(INFER, raw, raw)(SPAM + b"1", timeout=10) == b"x"
    assert len(place.backend.headers) == 1


def test_headers_that_are_held_are_bounded_in_bytes(tmp_path: Path) -> None:
    calls = Calls(tmp_path / "calls")
    relay = Relay(itertools.count(1), calls, Shedder(calls, 0.0, lambda _: None))
    relay.from_caller(http2.PREFACE)
    block = literals((":path", INFER), ("large", "x" * 10_000))
    for stream in range(1, 2001, 2):
        relay.from_caller(frame(http2.HEADERS, http2.END_HEADERS, stream, block))
    passed = len(relay.said()[1]) // len(block)
    assert 500 < passed < 600, "four megabytes stay here"
    relay.abandon()
    assert relay._held == 0


def test_stop_waits_for_whoever_may_not_go_in_yet(place: Place) -> None:
    with calling(place, INFER) as ask:
        futures = [ask.future(SPAM + b"5 wait", timeout=60) for _ in range(300)]
        until(lambda: sum(tunnel.relay.waiting for tunnel in place.fence.tunnels) == 300)
        threading.Timer(0.2, place.backend.go.set).start()
        assert place.fence.stop(patience=20)
        assert {future.result() for future in futures} == {b"xxxxx"}


def test_calls_whose_messages_come_in_another_order_than_their_headers(place: Place) -> None:
    """As callers send them who wait for room: a stream may not begin at Triton behind one that began later."""
    host, port = place.address.split(":")
    headers = {stream: asked(stream, b"", INFER)[: -http2.FRAME.size] for stream in (1, 3, 5)}
    answers: dict[int, bytes] = {}
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(http2.PREFACE + frame(http2.SETTINGS, 0, 0, b"") + b"".join(headers.values()))
        for stream in (5, 1, 3):
            question = SPAM + b"%d" % stream
            prefix = struct.pack(">BI", 0, len(question))
            for flags, part in ((0, b""), (0, prefix + question[:3]), (http2.END_STREAM, question[3:])):
                connection.sendall(frame(http2.DATA, flags, stream, part))
        frames = http2.Frames()
        while len(answers) < 3:
            for kind, _, number, whole in frames.read(connection.recv(1 << 16)):
                if kind == http2.DATA:
                    answers[number] = whole[http2.FRAME.size + 5 :]
    assert answers == {1: b"x", 3: b"xxx", 5: b"xxxxx"}


def test_a_server_that_ends_answers_what_it_has_taken_and_no_more(tmp_path: Path) -> None:
    """Its last word names its own streams; the others may be asked again elsewhere."""
    calls = Calls(tmp_path / "calls")
    relay = Relay(itertools.count(1), calls, Shedder(calls, 0.0, lambda _: None))
    relay.from_caller(http2.PREFACE + frame(http2.SETTINGS, 0, 0, b""))
    held, question = asked(1, b"", INFER)[: -http2.FRAME.size], struct.pack(">BI", 0, 1) + b"1"
    relay.from_caller(held + asked(3, question) + asked(5, question))
    relay.said()
    relay.from_triton(frame(http2.GOAWAY, 0, 0, struct.pack(">II", 1, 0)))
    said = [
        (kind, number, whole[http2.FRAME.size :]) for kind, _, number, whole in http2.Frames().read(relay.said()[0])
    ]
    assert sorted(said) == [
        (http2.RST_STREAM, 1, struct.pack(">I", 7)),
        (http2.RST_STREAM, 5, struct.pack(">I", 7)),
        (http2.GOAWAY, 0, struct.pack(">II", 5, 0)),
    ]
    assert not relay.is_done
    relay.from_triton(frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, literals(("grpc-status", "0"))))
    (answer,) = http2.Frames().read(relay.said()[0])
    assert answer[2] == 3
    assert relay.is_done


def test_a_caller_sends_ahead_no_more_than_it_may(tmp_path: Path) -> None:
    """Triton gets as much as it has room for, in order, and the rest as it makes some."""
    calls = Calls(tmp_path / "calls")
    relay = Relay(itertools.count(1), calls, Shedder(calls, 0.0, lambda _: None))
    wide = struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, http2.WIDEST)
    relay.from_triton(frame(http2.SETTINGS, 0, 0, wide))
    assert frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", AHEAD)) in relay.said()[0]
    head = asked(1, b"")[: -http2.FRAME.size]
    body = struct.pack(">BI", 0, 10_000_000) + bytes(http2.WINDOW + AHEAD - 5)
    parts = [body[at : at + 16_000] for at in range(0, len(body), 16_000)]
    relay.from_caller(http2.PREFACE + head + b"".join(frame(http2.DATA, 0, 1, part) for part in parts))

    def passed() -> bytes:
        frames = http2.Frames().read(relay.said()[1].removeprefix(http2.PREFACE))
        return b"".join(whole[http2.FRAME.size :] for kind, _, _, whole in frames if kind == http2.DATA)

    got = passed()
    assert len(got) == 4 * 16_000
    relay.from_triton(frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 200_000)))
    got += passed()
    assert 200_000 < len(got) <= http2.WINDOW + 200_000
    relay.from_triton(frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", AHEAD)))
    assert got + passed() == body
    too_much = frame(http2.DATA, 0, 1, bytes(16_000)) * ((200_000 + AHEAD) // 16_000 + 1)
    with pytest.raises(Malformed):
        relay.from_caller(too_much)


def test_headers_arrive_but_for_a_number_that_is_not_ours(place: Place) -> None:
    sent = [("authorization", "Bearer " + "k" * 5_000), ("other-bin", b"\x00\xff"), (place.calls.header, "5")]
    with calling(place) as ask:
        ask(b"1", timeout=10, metadata=sent)
        ask(b"1", timeout=10, metadata=sent)
    for number, seen in enumerate(place.backend.headers, start=1):
        assert seen["authorization"] == "Bearer " + "k" * 5_000
        assert seen["other-bin"] == b"\x00\xff"
        assert seen[place.calls.header] == str(number)


def test_stop_waits_for_answers_that_somebody_waits_for(place: Place) -> None:
    with calling(place) as ask:
        given_up, waited_for = ask.future(b"1 wait"), ask.future(b"3000000 wait")
        assert place.backend.begun.acquire(timeout=10)
        assert place.backend.begun.acquire(timeout=10)
        given_up.cancel()
        threading.Timer(0.3, place.backend.go.set).start()
        assert place.fence.stop(patience=20)
        assert len(waited_for.result()) == 3_000_000


def test_stop_says_when_it_cut_somebody_off(place: Place) -> None:
    with calling(place) as ask:
        future = ask.future(b"1 wait")
        assert place.backend.begun.acquire(timeout=10)
        assert not place.fence.stop(patience=0.1)
        assert future.code() is grpc.StatusCode.UNAVAILABLE


def test_stop_waits_for_whoever_reads_slowly_over_tls(tmp_path: Path) -> None:
    """What TLS has encrypted is not sent yet."""
    own = Authority(tmp_path).own
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.certificate, own.key)
    context.set_alpn_protocols(["h2"])
    trusting = ssl.create_default_context(cafile=str(own.certificate))
    trusting.check_hostname = False
    with placed(tmp_path, context) as place:
        host, port = place.address.split(":")
        stopped: list[bool] = []
        plain = socket.create_connection((host, int(port)), timeout=10)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        with trusting.wrap_socket(plain) as caller:
            wide = struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, http2.WIDEST)
            caller.sendall(http2.PREFACE + frame(http2.SETTINGS, 0, 0, wide))
            caller.sendall(frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 30)))
            caller.sendall(asked(1, struct.pack(">BI", 0, 7) + b"3000000"))
            assert place.backend.ended.acquire(timeout=10)
            stopping = threading.Thread(target=lambda: stopped.append(place.fence.stop(patience=20)))
            stopping.start()
            time.sleep(0.3)
            received(caller, 3_000_005)
        stopping.join()
    assert stopped == [True]


def test_an_address_of_both_kinds_answers_both(tmp_path: Path) -> None:
    with placed(tmp_path, address="::") as place:
        port = place.address.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                assert channel.unary_unary(METHOD, raw, raw)(b"1", timeout=10) == b"x"


def test_a_full_shared_memory_is_an_error_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Later it would be a signal that ends the process."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(tritext.calls, "_SHARED_MEMORY", tmp_path)
    endpoints = claim("127.0.0.1", 0, 0, 0)
    with pytest.raises(ServeError, match="has no room for a small table: No space left on device"):
        start_fences(endpoints, None, "", 0.0, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_port_that_is_taken_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tritext.calls, "_SHARED_MEMORY", tmp_path)
    endpoints = claim("127.0.0.1", 0, 0, 0)
    with (
        socket.create_server(("127.0.0.1", endpoints.metrics)),
        pytest.raises(ServeError, match=f"Port {endpoints.metrics} on 127.0.0.1 cannot be opened"),
    ):
        start_fences(endpoints, None, "", 0.0, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_without_triton_callers_are_sent_away(tmp_path: Path) -> None:
    with placed(tmp_path) as place:
        place.fence.inner = 1  # where nobody listens
        with calling(place) as ask, pytest.raises(grpc.RpcError) as caught:
            ask(b"1", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        http2.PREFACE[:10] + b"garbage garbage",
        http2.PREFACE + b"\xff" * 40,
        http2.PREFACE + frame(http2.HEADERS, http2.END_HEADERS, 1, b""),
        http2.PREFACE + frame(http2.HEADERS, http2.END_HEADERS | http2.PADDED, 1, b"\xff"),
        http2.PREFACE + frame(http2.HEADERS, 0, 1, b"") + frame(http2.DATA, 0, 1, b""),
        http2.PREFACE + frame(http2.CONTINUATION, 0, 1, b""),
        http2.PREFACE + frame(http2.HEADERS, 0, 1, b"") + frame(http2.CONTINUATION, 0, 1, b"x" * 16_384) * 6,
        http2.PREFACE + frame(http2.HEADERS, http2.END_HEADERS, 1, b"\x20" * 1_000),
        http2.PREFACE + frame(http2.HEADERS, http2.END_HEADERS | http2.PRIORITY, 1, b"\0"),
        http2.PREFACE + frame(http2.SETTINGS, 0, 0, struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, 0)),
        http2.PREFACE + frame(http2.HEADERS, http2.END_HEADERS, 1, literals((":path", METHOD), (":path", INFER))),
        http2.PREFACE + frame(http2.HEADERS, http2.END_HEADERS, 1, Encoder().encode([("a", "b" * 200)] * 200)),
        http2.PREFACE + asked(1, b"\0\0\0\0\1x\0\0\0\0\1y", INFER),
    ],
)
def test_who_speaks_no_http2_is_hung_up_on(place: Place, said: bytes) -> None:
    host, port = place.address.split(":")
    with calling(place) as ask:
        assert ask(b"1", timeout=10) == b"x"
        with (
            socket.create_connection((host, int(port)), timeout=10) as connection,
            contextlib.suppress(ConnectionResetError),
        ):
            connection.sendall(said)
            while connection.recv(1 << 16):
                pass
        assert ask(b"1", timeout=10) == b"x"


def test_headers_that_refer_to_earlier_ones_are_understood() -> None:
    """As callers send them who have not heard yet that nothing is to be remembered."""
    encoder, headers = Encoder(), Headers("own")
    sent = [(":method", "POST"), (":path", "/a/b"), ("x-own", "value"), ("grpc-timeout", "5S")]
    expected = Passed(literals(*sent[:3]), b"/a/b")
    blocks = [encoder.encode(sent) for _ in range(3)]
    assert len(blocks[1]) < len(blocks[0])
    assert [headers.passed_on(block) for block in blocks] == [expected] * 3
    encoder.header_table_size = 0
    for _ in range(3):
        assert headers.passed_on(encoder.encode(sent)) == expected
    encoder.header_table_size = 4096
    assert [headers.passed_on(encoder.encode(sent)) for _ in range(3)] == [expected] * 3


FRAMES = st.builds(
    frame,
    st.sampled_from(range(12)),
    st.integers(0, 255),
    st.sampled_from([0, 1, 3, 5, http2.WIDEST]),
    st.one_of(st.binary(max_size=40), st.just(literals((":path", "/a"))), st.just(struct.pack(">I", 100))),
)


@settings(max_examples=2_000, deadline=None)
@given(st.lists(st.tuples(st.booleans(), FRAMES), max_size=30), st.integers(1, 50))
def test_whatever_comes_is_passed_on_or_refused(
    tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[bool, bytes]], cut: int
) -> None:
    """In whatever pieces it comes: the same goes on."""
    unread = Calls(tmp_path_factory.getbasetemp() / "unread")

    def passed(pieces: int) -> list[bytes] | None:
        relay = Relay(itertools.count(1), unread, Shedder(unread, 0.0, lambda _: None))
        out = [b"", b""]
        try:
            relay.from_caller(http2.PREFACE)
            for is_callers, data in sent:
                for at in range(0, len(data), pieces):
                    take = relay.from_caller if is_callers else relay.from_triton
                    take(data[at : at + pieces])
                    out = [so_far + more for so_far, more in zip(out, relay.said(), strict=True)]
        except Malformed:
            return None
        relay.abandon()
        return out

    assert passed(cut) == passed(1 << 20)


PARTS = st.one_of(
    FRAMES,
    st.builds(
        frame, st.just(http2.WINDOW_UPDATE), st.just(0), st.sampled_from([0, 1, 3]), st.binary(min_size=4, max_size=4)
    ),
    st.builds(frame, st.just(http2.SETTINGS), st.sampled_from([0, 1]), st.just(0), st.binary(min_size=6, max_size=6)),
    st.builds(frame, st.just(http2.PING), st.sampled_from([0, 1]), st.just(0), st.just(bytes(8))),
    st.builds(frame, st.just(http2.RST_STREAM), st.just(0), st.sampled_from([1, 3, 5]), st.just(bytes(4))),
    st.builds(
        frame, st.just(http2.DATA), st.sampled_from([0, 1, 8]), st.sampled_from([1, 3, 5, 7]), st.binary(max_size=20)
    ),
    st.builds(
        lambda stream, name, value, end: frame(http2.HEADERS, http2.END_HEADERS | end, stream, literals((name, value))),
        st.sampled_from([3, 5, 7, 9]), st.binary(max_size=8), st.binary(max_size=8), st.sampled_from([0, 1]),
    ),
    st.builds(
        lambda name, value: frame(http2.SETTINGS, 0, 0, struct.pack(">HI", name, value)),
        st.integers(1, 6), st.sampled_from([0, 1, 2, 2**24, 2**31, 2**32 - 1]),
    ),
    st.just(frame(http2.DATA, 0, 1, b"more of it")),
    st.builds(frame, st.just(http2.WINDOW_UPDATE), st.integers(0, 255), st.sampled_from([0, 1]), st.just(b"\0\0\0\1")),
    st.just(frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 7, 0) * 2_730)),
    st.just(frame(http2.PING, 0, 0, bytes(8)) * 500),
    st.just(frame(http2.SETTINGS, 0, 0, b"") * 60),
    st.just(frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2),
    st.builds(lambda stream: asked(stream, b"\0\0\0\0\x011"), st.sampled_from([3, 5, 7, 9])),
)  # fmt: skip


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with placed(tmp_path_factory.mktemp("fence")) as made:
        yield made


@settings(max_examples=200, deadline=None)
@given(st.lists(PARTS, max_size=12))
def test_whatever_a_caller_sends_the_server_goes_on_with_the_call_it_has(shared: Place, sent: list[bytes]) -> None:
    """A connection that the server finds unsound would end, and its calls with it."""
    backend, backend.cut_off = shared.backend, 0
    backend.go.clear()
    host, port = shared.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        question = struct.pack(">BI", 0, 6) + b"1 wait"
        connection.sendall(http2.PREFACE + frame(http2.SETTINGS, 0, 0, b"") + asked(1, question))
        assert backend.begun.acquire(timeout=10)
        with contextlib.suppress(OSError):  # it has hung up on us
            for part in sent:
                connection.sendall(part)
            connection.settimeout(0.02)
            while connection.recv(1 << 16):
                pass
        backend.go.set()
        assert backend.ended.acquire(timeout=10)
    assert backend.cut_off == 0
    until(lambda: not shared.fence.tunnels)
    while backend.begun.acquire(blocking=False):
        pass
    while backend.ended.acquire(blocking=False):
        pass
