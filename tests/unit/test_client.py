"""Both clients against a made-up server; each test runs for `Client` and for `AsyncClient`."""

import asyncio
import enum
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest

from fake_triton import LABELS, FakeTriton, Refusal, Seen, label_of, slowly
from tritext.client import FLUSH, AsyncClient, Classification, Client, TokenClassification, affected
from tritext.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ServerFault,
    TritextError,
    Unavailable,
)


class Asynchronous:
    """An `AsyncClient` with the face of a `Client`."""

    def __init__(self, address: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(address, **options)

    def __enter__(self) -> "Asynchronous":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def classify(self, *args: Any, **options: Any) -> Any:
        return self._runner.run(self._client.classify(*args, **options))

    def model(self, name: str) -> Any:
        return self._runner.run(self._client.model(name))

    def close(self) -> None:
        self._runner.run(self._client.close())

    def pause(self, seconds: float) -> None:
        """What the caller of an `AsyncClient` does who awaits something else."""
        self._runner.run(asyncio.sleep(seconds))

    def classify_iter(self, *args: Any, **options: Any) -> Iterator[Any]:
        results = self._client.classify_iter(*args, **options)
        return self._steps(results)

    def _steps(self, results: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._runner.run(anext(results))
                except StopAsyncIteration:
                    return
        finally:
            self._runner.run(results.aclose())


Open = Callable[..., Any]


@pytest.fixture(params=[Client, Asynchronous], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Open]:
    clients: list[Any] = []

    def make(address: str, **options: Any) -> Any:
        clients.append(request.param(address, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with FakeTriton() as fake:
        yield fake


def numbered(count: int) -> list[str]:
    return ["x" * (index % 7) + str(index) for index in range(count)]


def best(results: Iterable[Any]) -> list[str]:
    return [result.label for result in results]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 64, 65, 500])
def test_results_come_in_order_whatever_the_number(connect: Open, server: FakeTriton, count: int) -> None:
    texts = numbered(count)
    results = connect(server.address).classify("spam", texts)
    assert best(results) == [label_of(text) for text in texts]
    assert [
        text for request in sorted(server.seen, key=lambda r: texts.index(r.texts[0])) for text in request.texts
    ] == texts


def test_order_holds_when_later_batches_are_answered_first(connect: Open, server: FakeTriton) -> None:
    server.behave = lambda seen: time.sleep(0.1 if seen.texts[0] == "0" else 0)
    texts = [str(index) * (index % 5 + 1) for index in range(40)]
    assert best(connect(server.address).classify("spam", texts, batch_size=4)) == [label_of(text) for text in texts]


def test_iterating_gives_the_same(connect: Open, server: FakeTriton) -> None:
    texts = numbered(200)
    client = connect(server.address)
    assert list(client.classify_iter("spam", iter(texts))) == client.classify("spam", texts)


def test_no_request_is_larger_than_the_model_takes_or_the_caller_wants(connect: Open) -> None:
    with FakeTriton(max_batch_size=8) as server:
        client = connect(server.address)
        client.classify("spam", numbered(100), batch_size=50)
        assert max(len(seen.texts) for seen in server.seen) == 8
        server.seen.clear()
        client.classify("spam", numbered(100), batch_size=3)
        assert max(len(seen.texts) for seen in server.seen) == 3


def test_several_requests_are_in_flight_but_no_more_than_asked(connect: Open, server: FakeTriton) -> None:
    server.behave = slowly(0.02)
    client = connect(server.address)
    client.classify("spam", numbered(100), batch_size=5)
    assert server.most_in_flight == 4
    server.most_in_flight = 0
    client.classify("spam", numbered(100), batch_size=5, max_in_flight=2)
    assert server.most_in_flight == 2


def test_pairs_to_a_model_of_single_texts(connect: Open) -> None:
    with FakeTriton(task="token-classification") as server:
        with pytest.raises(InvalidInput, match=r"Model pii at .* does token-classification, which takes single texts"):
            connect(server.address).classify("pii", [("a", "b")])
        assert server.seen == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"timeout": "4"}, "timeout is '4'"),
        ({"timeout": 1e18}, "a year at most"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"max_in_flight": "4"}, "max_in_flight is 4"),
    ],
)
def test_options_that_are_no_numbers(connect: Open, server: FakeTriton, options: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        connect(server.address).classify("spam", ["a"], **options)


def test_pairs(connect: Open, server: FakeTriton) -> None:
    connect(server.address).classify("spam", [("a", "b"), ("c", "")])
    assert (server.seen[0].texts, server.seen[0].pairs) == (["a", "c"], ["b", ""])


def test_parameters_reach_the_server_and_shape_the_answer(connect: Open, server: FakeTriton) -> None:
    client = connect(server.address)
    (result,) = client.classify("spam", ["ham"], top_k=2, threshold=0.1)
    assert [pair.label for pair in result.labels] == ["ham", "spam"]
    assert server.seen[-1].parameters == {"top_k": 2, "threshold": 0.1}
    (result,) = client.classify("spam", ["ham"], threshold=0.9)
    assert result.labels == ()
    (result,) = client.classify("spam", ["ham"], top_k=None)
    assert len(result.labels) == len(LABELS)


class Side(enum.StrEnum):
    LEFT = "left"


def test_parameters_may_be_of_numpys_types_and_an_enums(connect: Open, server: FakeTriton) -> None:
    options = {"threshold": np.float64(0.5), "truncation": Side.LEFT, "top_k": np.int32(2)}
    connect(server.address).classify("spam", ["ham"], **options, ignore_labels=[np.str_("O"), Side.LEFT])
    sent = server.seen[-1].parameters
    assert sent == {"threshold": 0.5, "truncation": "left", "top_k": 2, "ignore_labels": '["O", "left"]'}


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"function_to_apply": "soft\ud800"}, r"function_to_apply holds a lone surrogate at position 4,"),
        ({"ignore_labels": ["O", "\ud800"]}, r"ignore_labels\[1\] holds a lone surrogate at position 0,"),
        ({"candidate_labels": ["a", "b\ud800"]}, r"candidate_labels\[1\] holds a lone surrogate at position 1,"),
        ({"candidate_labels": "a, b\ud800"}, r"candidate_labels holds a lone surrogate at position 4,"),
        ({"candidate_labels": json.dumps(["a", "b\ud800"])}, r"candidate_labels holds a lone surrogate at position 1,"),
    ],
)
def test_what_utf_8_cannot_carry_is_named_in_options_too(connect: Open, options: Any, where: str) -> None:
    with FakeTriton(task="zero-shot-classification") as server:
        with pytest.raises(InvalidInput, match=f"^Parameter {where}"):
            connect(server.address).classify("nli", ["a"], **{"candidate_labels": "x", **options})
        assert not server.seen


def test_what_all_texts_share_counts_in_what_a_request_may_be(connect: Open) -> None:
    labels = [f"label {index}" for index in range(4000)]
    with FakeTriton(task="zero-shot-classification") as server:
        results = connect(server.address).classify("nli", numbered(9), candidate_labels=labels)
    assert best(results) == [label_of(text) for text in numbered(9)]
    assert sorted(len(seen.texts) for seen in server.seen) == [1, 4, 4]  # a server takes 16,384 rows a request
    assert all(seen.candidates == labels for seen in server.seen)


def test_entities(connect: Open) -> None:
    with FakeTriton(task="token-classification") as server:
        results = connect(server.address).classify("pii", ["Ada met Özil", "nobody"], result_type=TokenClassification)
    assert [(e.label, e.word, e.start, e.end) for e in results[0].entities] == [
        ("NAME", "Ada", 0, 3),
        ("NAME", "Özil", 8, 12),
    ]
    assert results[1].entities == ()


def test_the_wrong_type_of_result_is_refused_before_anything_is_sent(connect: Open, server: FakeTriton) -> None:
    client = connect(server.address)
    with pytest.raises(InvalidInput, match="does text-classification: its results are Classification, not TokenClass"):
        client.classify("spam", ["a"], result_type=TokenClassification)
    assert not server.seen
    assert client.classify("spam", ["a"], result_type=Classification)


def test_model_info_is_asked_once_by_calls_and_anew_on_request(connect: Open, server: FakeTriton) -> None:
    client = connect(server.address)
    client.classify("spam", ["a"])
    client.classify("spam", ["b"])
    assert server.config_calls == 1
    info = client.model("spam")
    assert (info.task, info.labels, info.max_length, info.max_batch_size) == ("text-classification", LABELS, 128, 64)
    assert server.config_calls == 2


def test_a_model_that_was_built_anew_is_asked_again(connect: Open, server: FakeTriton) -> None:
    client = connect(server.address)
    client.classify("spam", ["a"])
    server.max_batch_size = 2

    def refuse(seen: Seen) -> None:
        if len(seen.texts) > 2:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "batch-size must be <= 2")

    server.behave = refuse
    with pytest.raises(InvalidInput):
        client.classify("spam", ["a", "b", "c"])
    assert len(client.classify("spam", ["a", "b", "c"])) == 3


TASKS = {"text-classification": Classification, "token-classification": TokenClassification}


def classify_iter(client: Any, *args: Any, **options: Any) -> list[Any]:
    return list(client.classify_iter(*args, **options))


@pytest.mark.parametrize("ask", [lambda client, *args: client.classify(*args), classify_iter], ids=["list", "iter"])
@pytest.mark.parametrize(("before", "after"), [tuple(TASKS), tuple(TASKS)[::-1]])
def test_a_model_that_was_built_anew_for_another_task_fails_once(
    connect: Open, server: FakeTriton, ask: Any, before: str, after: str
) -> None:
    client = connect(server.address)
    server.task = before
    assert [type(result) for result in ask(client, "m", ["I am Ada"])] == [TASKS[before]]
    server.task = after
    with pytest.raises(ServerFault, match="It may have been built anew meanwhile: ask again"):
        ask(client, "m", ["I am Ada"])
    assert [type(result) for result in ask(client, "m", ["I am Ada"])] == [TASKS[after]]


@pytest.mark.parametrize(
    ("before", "texts", "options", "sentence"),
    [
        ("token-classification", [("a", "b")], {}, "takes single texts"),
        ("token-classification", ["a"], {"result_type": Classification}, "its results are TokenClassification"),
        ("zero-shot-classification", ["a"], {}, "needs candidate_labels"),
    ],
)
def test_what_does_not_fit_a_model_as_it_was_is_judged_anew_the_next_time(
    connect: Open, server: FakeTriton, before: str, texts: list[Any], options: Any, sentence: str
) -> None:
    client = connect(server.address)
    server.task = before
    client.classify("m", ["a"], **({"candidate_labels": "x"} if before.startswith("zero") else {}))
    server.task = "text-classification"
    with pytest.raises(InvalidInput, match=sentence):
        client.classify("m", texts, **options)
    assert [type(result) for result in client.classify("m", texts, **options)] == [Classification]


def test_a_single_str_is_no_list(connect: Open, server: FakeTriton) -> None:
    with pytest.raises(InvalidInput, match="Write \\[text\\]"):
        connect(server.address).classify("spam", "text")
    with pytest.raises(InvalidInput, match="Write \\[text\\]"):
        connect(server.address).classify_iter("spam", "text")


@pytest.mark.parametrize("options", [{"timeout": -1}, {"timeout": 0}, {"batch_size": 0}, {"max_in_flight": 0}])
def test_options_that_cannot_be_are_refused(connect: Open, server: FakeTriton, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        connect(server.address).classify("spam", ["a"], **options)


@pytest.mark.parametrize("address", ["", "http://localhost:8000", "grpc://localhost:8001"])
def test_an_address_that_is_a_url_is_refused(connect: Open, address: str) -> None:
    with pytest.raises(InvalidInput, match="Write host:port"):
        connect(address)


def test_the_deadline_is_the_servers_too(connect: Open, server: FakeTriton) -> None:
    client = connect(server.address, timeout=50.0)
    client.classify("spam", ["a"], timeout=7.0)
    client.classify("spam", ["a"])
    left = [seen.seconds_left for seen in server.seen]
    assert 6.0 < (left[0] or 0) < 8.0  # gRPC rounds up on the wire
    assert 49.0 < (left[1] or 0) < 51.0


def test_a_call_ends_at_its_deadline(connect: Open, server: FakeTriton) -> None:
    server.behave = slowly(1.0)
    start = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=f"Model spam at {server.address} did not answer within 0.2 s"):
        connect(server.address).classify("spam", ["a"], timeout=0.2)
    assert time.monotonic() - start < 0.8


def test_the_deadline_of_classify_is_for_all_batches_and_that_of_iterating_for_each(
    connect: Open, server: FakeTriton
) -> None:
    server.behave = slowly(0.1)
    client = connect(server.address)
    with pytest.raises(DeadlineExceeded):
        client.classify("spam", numbered(10), batch_size=1, max_in_flight=1, timeout=0.5)
    assert len(list(client.classify_iter("spam", numbered(10), batch_size=1, max_in_flight=1, timeout=0.5))) == 10


def refuse_at(text: str, code: grpc.StatusCode, details: str) -> Callable[[Seen], None]:
    def behave(seen: Seen) -> None:
        if text in seen.texts:
            raise Refusal(code, details)

    return behave


def test_an_error_names_the_items_of_its_batch_and_comes_after_the_results_before_it(
    connect: Open, server: FakeTriton
) -> None:
    server.behave = refuse_at("17", grpc.StatusCode.INTERNAL, "boom")
    with pytest.raises(ServerFault, match=r"texts 16 to 19 \(INTERNAL\): boom") as caught:
        connect(server.address).classify("spam", map(str, range(40)), batch_size=4)
    assert affected(caught.value) == range(16, 20)

    results = connect(server.address).classify_iter("spam", map(str, range(40)), batch_size=4)
    assert len([next(results) for _ in range(16)]) == 16
    with pytest.raises(ServerFault):
        next(results)


def test_a_row_that_the_server_names_is_the_callers_item(connect: Open, server: FakeTriton) -> None:
    details = "in ensemble 'spam', TEXT[1] has 900 tokens, this model takes 512."
    server.behave = refuse_at("17", grpc.StatusCode.INVALID_ARGUMENT, details)
    with pytest.raises(InvalidInput, match=r"^TEXT\[17\] has 900 tokens") as caught:
        connect(server.address).classify("spam", list(map(str, range(40))), batch_size=4)
    assert affected(caught.value) == range(17, 18)


def test_the_callers_own_exception_comes_after_all_results_before_it(connect: Open, server: FakeTriton) -> None:
    def source() -> Iterator[str]:
        yield from numbered(10)
        raise LookupError("the file is gone")

    got: list[Any] = []
    results = connect(server.address).classify_iter("spam", source(), batch_size=4)
    with pytest.raises(LookupError, match="the file is gone"):
        got.extend(results)  # keeps what comes before the exception
    assert best(got) == [label_of(text) for text in numbered(10)]


def test_an_unknown_model(connect: Open, server: FakeTriton) -> None:
    with pytest.raises(ModelNotFound, match=f"The server at {server.address} has no model absent"):
        connect(server.address).classify("absent", ["a"])


def test_a_model_that_tritext_did_not_build(connect: Open) -> None:
    with FakeTriton(config_parameters={}) as server, pytest.raises(InvalidInput, match="not a model made by"):
        connect(server.address).classify("resnet", ["a"])
    with FakeTriton(config_parameters={"task": "x"}) as server, pytest.raises(ServerFault, match="'labels'"):
        connect(server.address).classify("spam", ["a"])


def test_nobody_there(connect: Open) -> None:
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"Nobody answers at 127\.0\.0\.1:1 "):
        connect("127.0.0.1:1").classify("spam", ["a"])
    assert time.monotonic() - start < 3


def test_a_proxy_is_not_asked_for_this_machine(
    connect: Open, server: FakeTriton, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert connect(server.address).classify("spam", ["a"])


def test_a_server_that_comes_back_is_found_again(connect: Open) -> None:
    with FakeTriton() as server:
        client = connect(server.address)
        client.classify("spam", ["a"])
    with pytest.raises(Unavailable):
        client.classify("spam", ["a"])
    with FakeTriton(port=server.port):
        deadline = time.monotonic() + 10
        while True:
            try:
                assert client.classify("spam", ["a"])
                break
            except Unavailable:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_closed_client_says_so(connect: Open, server: FakeTriton) -> None:
    client = connect(server.address)
    client.classify("spam", ["a"])
    client.close()
    with pytest.raises(ClientError, match="is closed"):
        client.classify("spam", ["a"])


def test_reading_runs_ahead_no_further_than_the_window(connect: Open, server: FakeTriton) -> None:
    taken = 0

    def source() -> Iterator[str]:
        nonlocal taken
        for text in numbered(10_000):
            taken += 1
            yield text

    results = connect(server.address).classify_iter("spam", source(), batch_size=10, max_in_flight=3)
    for done, _ in enumerate(results, start=1):
        assert taken <= done + 10 * 4
        if done == 200:
            break
    results.close()
    assert taken <= 240


def test_leaving_early_cancels_what_is_in_flight(connect: Open, server: FakeTriton) -> None:
    server.behave = lambda seen: time.sleep(0.1 if seen.texts == ["0"] else 0.6)
    results = connect(server.address).classify_iter("spam", map(str, range(1000)), batch_size=1)
    next(results)
    results.close()
    time.sleep(0.9)
    assert len(server.seen) == 4
    assert server.abandoned == 3


def test_a_flush_brings_back_what_is_on_its_way(connect: Open, server: FakeTriton) -> None:
    got: list[Any] = []

    def source() -> Iterator[Any]:
        yield from ["a", "b"]
        yield FLUSH
        assert len(got) == 2
        yield "c"

    got.extend(connect(server.address).classify_iter("spam", source()))
    assert len(got) == 3


def test_texts_of_a_megabyte(connect: Open, server: FakeTriton) -> None:
    texts = ["ham " + "ä" * 500_000 for _ in range(40)]
    results = connect(server.address).classify("spam", texts, batch_size=64)
    assert best(results) == ["ham"] * 40
    sizes = [sum(len(text.encode()) for text in seen.texts) for seen in server.seen]
    assert max(sizes) <= 32 * 2**20
    assert len(sizes) == 2


def test_answers_of_several_megabytes(connect: Open) -> None:
    with FakeTriton(task="token-classification") as server:
        (result,) = connect(server.address).classify("pii", ["A" + "b" * 6_000_000])
    assert len(result.entities[0].word) == 6_000_001


def test_one_client_serves_many_threads(server: FakeTriton) -> None:
    with Client(server.address) as client, ThreadPoolExecutor(8) as pool:

        def ask(seed: int) -> bool:
            texts = [f"{seed}{'y' * index}" for index in range(seed % 40 + 1)]
            return best(client.classify("spam", texts, batch_size=7)) == [label_of(text) for text in texts]

        assert all(pool.map(ask, range(80)))


def test_closing_while_another_thread_waits(server: FakeTriton) -> None:
    server.behave = slowly(2.0)
    client = Client(server.address)
    failures: list[TritextError] = []

    def ask(texts: list[str]) -> None:
        try:
            client.classify("spam", texts, batch_size=1)
        except TritextError as error:
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(texts,)) for texts in (["a"], ["a", "b"])]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    client.close()
    for thread in threads:
        thread.join(1.5)
    assert [type(failure) for failure in failures] == [Unavailable, Unavailable]


@pytest.mark.parametrize("count", [1, 2])
def test_closing_while_another_thread_is_about_to_send(
    server: FakeTriton, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    client = Client(server.address)
    client.classify("spam", ["a"])
    check = client._check_open

    def check_just_before() -> None:
        check()
        client.close()

    monkeypatch.setattr(client, "_check_open", check_just_before)
    with pytest.raises(ClientError, match="is closed"):
        client.classify("spam", ["a"] * count, batch_size=1)


def test_closing_while_another_task_waits(server: FakeTriton) -> None:
    server.behave = slowly(2.0)

    async def main() -> None:
        client = AsyncClient(server.address)
        await client.model("spam")
        task = asyncio.ensure_future(client.classify("spam", ["a"]))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(Unavailable):
            await task

    asyncio.run(main())


def test_a_cancelled_task_is_cancelled_and_the_client_lives_on(server: FakeTriton) -> None:
    async def main() -> None:
        async with AsyncClient(server.address) as client:
            await client.model("spam")
            server.behave = slowly(1.0)
            task = asyncio.ensure_future(client.classify("spam", ["a"]))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            server.behave = slowly(0)
            assert len(await client.classify("spam", ["a"])) == 1

    asyncio.run(main())


def test_many_tasks_share_a_client_and_sources_may_be_asynchronous(server: FakeTriton) -> None:
    async def source(count: int) -> AsyncIterator[str]:
        for text in numbered(count):
            await asyncio.sleep(0)
            yield text

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            answers = await asyncio.gather(*(client.classify("spam", source(count)) for count in range(1, 60, 7)))
            for answer in answers:
                assert best(answer) == [label_of(text) for text in numbered(len(answer))]

    asyncio.run(main())


def test_importing_the_client_imports_no_grpc_numpy_or_torch() -> None:
    code = "import sys, tritext.client; print([m for m in ('grpc', 'numpy', 'torch', 'asyncio') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


# --- refusals are tried again ------------------------------------------------------------------------------------

HINT = "in ensemble 'spam', There are 2.5 s of work waiting. Try again in 0.2 s."
FULL = "in ensemble 'spam', Exceeds maximum queue size"
DEAD = "in ensemble 'spam', Stub process 'spam_encoder_1_0_0' is not healthy."
RELOADED = "[request id: 1] in ensemble 'spam', Request for unknown model: 'spam_encoder_1' is not at ready state"


class Refusing:
    """Refuses each text's request the first `times` times."""

    def __init__(self, details: str, times: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        self._refusal, self._times = Refusal(code, details), times
        self._lock = threading.Lock()
        self.asked: dict[str, list[float]] = {}

    def __call__(self, seen: Seen) -> None:
        with self._lock:
            asked = self.asked.setdefault(seen.texts[0], [])
            asked.append(time.monotonic())
            if len(asked) <= self._times:
                raise self._refusal


@pytest.mark.parametrize(
    ("details", "code"),
    [
        (HINT, grpc.StatusCode.UNAVAILABLE),
        (FULL, grpc.StatusCode.UNAVAILABLE),
        (DEAD, grpc.StatusCode.INTERNAL),
        (RELOADED, grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_a_refusal_is_tried_again(connect: Open, server: FakeTriton, details: str, code: grpc.StatusCode) -> None:
    server.behave = behave = Refusing(details, 2, code)
    assert [result.label for result in connect(server.address).classify("spam", ["ham"])] == ["ham"]
    first, second, third = behave.asked["ham"]
    assert min(second - first, third - second) >= (0.2 if details is HINT else 0.04)


def test_order_and_every_result_survive_refusals(connect: Open, server: FakeTriton) -> None:
    server.behave = Refusing(HINT, 1)
    texts = ["x" * size for size in range(1, 41)]
    begun = time.monotonic()
    results = connect(server.address).classify_iter("spam", texts, batch_size=2, max_in_flight=8)
    assert [result.label for result in results] == [label_of(text) for text in texts]
    assert time.monotonic() - begun < 20 * 0.2, "each of those refused together has waited for itself"


def test_what_is_flushed_comes_before_more_is_read_also_when_it_is_refused(connect: Open, server: FakeTriton) -> None:
    server.behave = Refusing(HINT, 1)
    got: list[str] = []

    def live() -> Iterator[Any]:
        yield "ham"
        yield FLUSH
        assert got == ["ham"]
        yield "eggs"

    for result in connect(server.address).classify_iter("spam", live()):
        got += [result.label]
    assert got == ["ham", "eggs"]


@pytest.mark.parametrize(("retries", "asked"), [(0, 1), (2, 3)])
def test_so_many_tries_and_no_more(connect: Open, server: FakeTriton, retries: int, asked: int) -> None:
    server.behave = behave = Refusing(FULL, 99)
    client = connect(server.address)
    for ask in (client.classify, lambda *args, **options: list(client.classify_iter(*args, **options))):
        behave.asked.clear()
        with pytest.raises(Unavailable, match="Exceeds maximum queue size"):
            ask("spam", ["ham", "ham"], batch_size=2, retries=retries)
        assert len(behave.asked["ham"]) == asked


def refuse_once(text: str, details: str, ham_s: float = 0.0) -> Refusing:
    """Refuses `text` the first time; "ham" takes a while."""
    refusing = Refusing(details, 1)

    def behave(seen: Seen) -> None:
        if seen.texts == ["ham"]:
            time.sleep(ham_s)
        if seen.texts == [text]:
            refusing(seen)

    behave.asked = refusing.asked  # type: ignore[attr-defined]
    return behave  # type: ignore[return-value]


def test_a_refusal_is_tried_again_however_long_the_caller_took_to_see_it(connect: Open, server: FakeTriton) -> None:
    server.behave = behave = refuse_once("eggs", "Too much. Try again in 0.1 s.")
    client, got = connect(server.address, timeout=1.0), []
    for result in client.classify_iter("spam", ["ham", "eggs", "spam"], batch_size=1, max_in_flight=2):
        got.append(result.label)
        getattr(client, "pause", time.sleep)(1.1 if got == ["ham"] else 0)
    assert got == ["ham", "eggs", "spam"]
    assert len(behave.asked["eggs"]) == 2


def test_a_refusal_is_tried_again_however_long_an_earlier_request_took(connect: Open, server: FakeTriton) -> None:
    server.behave = behave = refuse_once("eggs", "Too much. Try again in 0.4 s.", ham_s=0.9)
    client = connect(server.address, timeout=1.2)
    assert best(client.classify("spam", ["ham", "eggs"], batch_size=1)) == ["ham", "eggs"]
    assert len(behave.asked["eggs"]) == 2


def test_a_deadline_of_all_requests_is_not_put_off_by_a_refusal(connect: Open, server: FakeTriton) -> None:
    server.behave = behave = refuse_once("eggs", "Too much. Try again in 0.4 s.", ham_s=0.9)
    with pytest.raises(Unavailable, match="Try again in"):
        connect(server.address).classify("spam", ["ham", "eggs"], batch_size=1, timeout=1.2)
    assert len(behave.asked["eggs"]) == 1


def test_what_comes_too_late_is_not_waited_for(connect: Open, server: FakeTriton) -> None:
    server.behave = behave = Refusing("Too much. Try again in 30 s.", 99)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match=r"Try again in 30 s\.$"):
        connect(server.address).classify("spam", ["ham"], timeout=5.0)
    assert time.monotonic() - begun < 3
    assert len(behave.asked["ham"]) == 1


def test_all_tries_together_keep_within_the_timeout(connect: Open, server: FakeTriton) -> None:
    server.behave = behave = Refusing(HINT, 99)
    begun = time.monotonic()
    with pytest.raises(Unavailable):
        connect(server.address).classify("spam", ["ham"], timeout=1.5)
    assert time.monotonic() - begun < 1.5 + 1
    assert len(behave.asked["ham"]) > 1
    left = [seen.seconds_left for seen in server.seen]
    assert left == sorted(left, reverse=True)


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "TEXT[0] is wrong. Try again in 0.1 s."),
        (grpc.StatusCode.INTERNAL, "The server failed in EncoderStage; its log has the details."),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'spam' is not found"),
        (grpc.StatusCode.UNAVAILABLE, "Server is stopping, scheduler for model has stopped accepting requests"),
    ],
)
def test_what_could_not_succeed_is_not_tried_again(
    connect: Open, server: FakeTriton, code: grpc.StatusCode, details: str
) -> None:
    server.behave = behave = Refusing(details, 99, code)
    with pytest.raises(TritextError):
        connect(server.address).classify("spam", ["ham"])
    assert len(behave.asked["ham"]) == 1


def test_the_server_is_told_how_long_it_has_and_by_which_name_to_know_a_request(
    connect: Open, server: FakeTriton
) -> None:
    connect(server.address).classify("spam", ["ham"], timeout=20.0)
    (seen,) = server.seen
    assert seen.timeout is not None
    assert 10e6 < seen.timeout <= 20e6
    assert seen.id


@pytest.mark.parametrize("retries", [-1, 1.5, "two"])
def test_retries_that_are_no_number(connect: Open, server: FakeTriton, retries: Any) -> None:
    with pytest.raises(InvalidInput, match="Give a whole number, 0 for none"):
        connect(server.address).classify("spam", ["ham"], retries=retries)
