"""The lean gRPC connection against a real gRPC server: every size, every status, every way to end."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc
import pytest
from tritonclient.grpc import service_pb2

from fake_triton import FakeTriton, Refusal, Seen, slowly
from tritext.bench.hpack import grpc_status
from tritext.bench.http2 import Connection
from tritext.bench.load import REFUSED, Failed
from tritext.bench.served import METHOD
from tritext.client.batching import Batch
from tritext.client.codec import RequestEncoder, decode
from tritext.http2 import literals
from tritext.tasks.base import Task
from tritext.tasks.text_classification import TASK as TEXTS
from tritext.tasks.token_classification import TASK as TOKENS

T = TypeVar("T")


def request(*texts: str) -> bytes:
    encoded = RequestEncoder("spam", {}).encode(Batch(0, [text.encode() for text in texts]))
    return bytes(encoded.SerializeToString())


def tokens(answer: bytes, rows: int = 1, task: Task = TEXTS) -> list[int]:
    return [result.token_count for result in decode(service_pb2.ModelInferResponse.FromString(answer), rows, task)]


async def connect(server: FakeTriton, timeout: float = 30.0) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(server.address, METHOD, timeout), "127.0.0.1", server.port
    )
    return connection


def asking(server: FakeTriton, ask: Callable[[Connection], Coroutine[Any, Any, T]], timeout: float = 30.0) -> T:
    async def main() -> T:
        connection = await connect(server, timeout)
        try:
            return await asyncio.wait_for(ask(connection), 30)
        finally:
            connection.close()

    return asyncio.run(main())


async def kind_of(call: Coroutine[Any, Any, bytes]) -> str:
    with pytest.raises(Failed) as failed:
        await call
    return failed.value.kind


def test_many_at_once_each_get_their_own_answer() -> None:
    async def ask(connection: Connection) -> list[bytes]:
        return await asyncio.gather(*(connection.ask(request("word " * count)) for count in range(300)))

    with FakeTriton() as server:
        answers = asking(server, ask)
    assert [tokens(answer) for answer in answers] == [[count + 2] for count in range(300)]


@pytest.mark.parametrize("size", [16_000, 17_000, 70_000, 1_000_000])
def test_requests_and_answers_of_every_size(size: int) -> None:
    """Beyond a frame, beyond the windows, and others after them."""
    text = "Word " * (size // 5)

    async def ask(connection: Connection) -> list[bytes]:
        return await asyncio.gather(*(connection.ask(request(each)) for each in (text, "one", text, "two words")))

    with FakeTriton(task="token-classification", keep=False) as server:  # which gives every word back
        answers = asking(server, ask)
    counted = size // 5 + 2
    assert [tokens(answer, task=TOKENS) for answer in answers] == [[counted], [3], [counted], [4]]
    assert len(answers[0]) > size


def test_windows_are_given_back_for_as_long_as_it_takes() -> None:
    text = "Word " * 100_000  # whose answer is some two megabytes

    async def ask(connection: Connection) -> int:
        return sum([len(await connection.ask(request(text))) for _ in range(4)])

    with FakeTriton(task="token-classification", keep=False) as server:
        assert asking(server, ask) > 1.5 * 2**22


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_by_its_name(code: grpc.StatusCode) -> None:
    def refuse(seen: Seen) -> None:
        if seen.texts == ["bad"]:
            raise Refusal(code, "a long story, mit Umläuten " * 20)

    async def ask(connection: Connection) -> tuple[str, bytes]:
        return await kind_of(connection.ask(request("bad"))), await connection.ask(request("good"))

    with FakeTriton(behave=refuse) as server:
        kind, answer = asking(server, ask)
    told = REFUSED if code is grpc.StatusCode.UNAVAILABLE else code.name  # by a server that is there
    assert (kind, tokens(answer)) == (told, [3])


def test_a_method_that_is_not_there() -> None:
    async def main(server: FakeTriton) -> str:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection("somewhere", "/inference.None/Nothing", 5.0), "127.0.0.1", server.port
        )
        try:
            return await kind_of(connection.ask(b""))
        finally:
            connection.close()

    with FakeTriton() as server:
        assert asyncio.run(main(server)) == "UNIMPLEMENTED"


def test_what_takes_too_long_is_given_up_on_both_sides() -> None:
    async def ask(connection: Connection) -> tuple[str, bytes]:
        slow = asyncio.create_task(kind_of(connection.ask(request("slow"))))
        await asyncio.sleep(0.3)
        connection.expire()
        return await slow, await connection.ask(request("quick"))

    with FakeTriton(behave=lambda seen: time.sleep(0.8 * (seen.texts == ["slow"]))) as server:
        kind, answer = asking(server, ask, timeout=0.2)
        assert (kind, tokens(answer)) == ("DEADLINE_EXCEEDED", [3])
        assert all(seen.seconds_left is not None and seen.seconds_left <= 0.2 for seen in server.seen)


def test_a_request_that_is_cancelled_leaves_the_others_alone() -> None:
    async def ask(connection: Connection) -> bytes:
        given_up = asyncio.create_task(connection.ask(request("a")))
        other = asyncio.create_task(connection.ask(request("b")))
        await asyncio.sleep(0.1)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        return await other

    with FakeTriton(behave=slowly(0.4)) as server:
        assert tokens(asking(server, ask)) == [3]


def test_a_server_that_goes() -> None:
    async def main() -> tuple[str, str, bool]:
        with FakeTriton(behave=slowly(0.5)) as server:
            connection = await connect(server)
            call = asyncio.create_task(kind_of(connection.ask(request("a"))))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.__exit__)
            first = await asyncio.wait_for(call, 10)
            while connection.is_open:
                await asyncio.sleep(0.01)
            return first, await kind_of(connection.ask(request("b"))), connection.is_open

    first, second, is_open = asyncio.run(main())
    assert first in {REFUSED, "UNAVAILABLE", "CANCELLED"}
    assert (second, is_open) == ("UNAVAILABLE", False)


# Blocks that the package hpack 4 made, with and without Huffman's code: :status 200, content-type, grpc-message "no",
# grpc-status, date. The last one is what gRPC's own server sends.
@pytest.mark.parametrize(
    ("block", "status"),
    [
        ("400b677270632d73746174757301 30", 0),
        ("2088 400b677270632d73746174757302 3134 4004646174650 36e6f77", 14),
        ("2088 40889acac8b21234da8f8107 6183a8fe3f", 0),
        ("2088 40889acac8b21234da8f820b5f 6183a8fe3f", 14),
        ("88", None),
        ("400b677270632d73746174757301", None),
        ("400b677270632d737461747573 0178", None),
        ("ff", None),
        ("", None),
    ],
)
def test_the_status_is_found_in_any_block_of_headers(block: str, status: int | None) -> None:
    assert grpc_status(bytes.fromhex(block.replace(" ", ""))) == status


def test_headers_of_any_length_are_written() -> None:
    for size in (1, 126, 127, 128, 254, 255, 300, 20_000):
        block = literals(("a", "x" * size), ("grpc-status", "7"))
        assert grpc_status(block) == 7
