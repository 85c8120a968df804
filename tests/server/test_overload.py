"""More than a server can do: what it takes is answered in time, the rest is told when to come again, and nobody hangs.

The engine sleeps for a while at each call, so that the capacity is known on any machine.
"""

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import grpc
import numpy as np
import pytest

from benchmarks.reliability.burst import burst
from building import make_checkpoint, quick_build, record_anew
from tritext import Client
from tritext.bench import load, metrics
from tritext.bench.load import REFUSED, Run
from tritext.bench.served import METHOD, Sender, Served
from tritext.bench.traffic import Traffic, traffic
from tritext.client import Classification, wire
from tritext.client.batching import Batch
from tritext.client.codec import RequestEncoder
from tritext.errors import DeadlineExceeded, Unavailable
from tritext.naming import step_name
from tritext.repository import committed
from tritext.serve import Server
from tritext.serve.steps import processes_of
from waiting import until

NAME = "slow"
GOAL = 1.0  # seconds
TEXTS = [f"{number} all human beings are born free and equal in dignity" for number in range(64)]
BATCH = 8
SLEEP = 0.05  # a call

SLOW_ENGINE = f"""
import time

from tritext.stages.adapter import StageModel
from tritext.stages.encoder import EncoderStage


class SlowStage(EncoderStage):
    def _run(self, calls):
        for call in calls:
            time.sleep({SLEEP})
            yield from super()._run(iter([call]))


class TritonPythonModel(StageModel):
    stage = SlowStage
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("overload")
    quick_build(make_checkpoint(folder / "checkpoint"), folder / "repository", NAME)
    model = committed(folder / "repository", NAME)
    assert model is not None
    (model.step("encoder") / "model.py").write_text(SLOW_ENGINE, encoding="utf-8")
    record_anew(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITEXT_TURNS", "off")
        with Server(
            folder / "repository", grpc_port=0, http_port=0, metrics_port=0, latency_goal=GOAL, log=print
        ) as server:
            server.wait_ready()
            with Client(server.grpc_url) as client:  # so that it knows its rate
                client.classify(NAME, TEXTS, batch_size=BATCH)
            yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def served(server: Server) -> Served:
    return Served(server.grpc_url, NAME, 30.0)


@pytest.fixture(scope="module")
def requests(served: Served) -> Traffic:
    counts = served.count(TEXTS, {})
    return traffic(served.encoder({}), TEXTS, counts, batch_size=BATCH, max_length=served.info.max_length)


def under(served: Served, requests: Traffic, rate: float, seconds: float) -> Run:
    async def main() -> Run:
        async with Sender(served, requests) as sender:
            return await load.open_loop(
                sender.send, rate=rate, seconds=seconds, warmup=0.0, seed=0, cap=10_000, drain=40
            )

    return load.run(main())


def p99(seconds: Any) -> float:
    return float(np.percentile(seconds, 99, method="inverted_cdf"))


def quietly(client: Client) -> None:
    """Wait until nothing is left to do."""
    client.classify(NAME, ["a"])
    time.sleep(1.2)


def capacity(served: Served, requests: Traffic) -> float:
    """Requests a second that are answered, 16 at a time."""

    async def main() -> Run:
        async with Sender(served, requests) as sender:
            return await load.closed_loop(sender.send, concurrency=8, seconds=2.0, warmup=0.5)

    run = load.run(main())
    return float(run.answered.sum() / run.seconds)


def refusals(server: Server, reason: str) -> float:
    text = metrics_text(server)
    found = re.search(rf'tritext_refusals_total{{[^}}]*reason="{reason}"[^}}]*}} (\S+)', text)
    assert found, text
    return float(found[1])


def metrics_text(server: Server) -> str:
    with urlopen(server.metrics_url) as answer:  # noqa: S310 - ours
        return str(answer.read().decode())


def since(before: float, read: Callable[[], float], expected: float) -> float:
    """How far a counter has grown from `before`. Steps tell Triton twice a second, and later on a busy machine.

    So it is waited for `expected`, and in any case for a while: what is more than that is to be seen too.
    """
    time.sleep(1.2)
    until(lambda: read() - before >= expected)
    return read() - before


def test_far_too_much_is_refused_and_what_is_taken_is_answered_in_time(
    server: Server, served: Served, requests: Traffic, client: Client
) -> None:
    full = capacity(served, requests)
    quietly(client)
    before = refusals(server, "overload")
    run = under(served, requests, 12 * full, 5.0)
    assert set(run.errors.values()) == {REFUSED}
    answered = run.ended[~run.failed] - run.due[~run.failed]
    assert p99(answered) <= 2 * GOAL
    assert p99(run.ended[run.failed] - run.sent[run.failed]) < 1.0
    assert run.answered.sum() / run.seconds > 0.5 * full, "it was busy with refusing"
    refused = len(run.errors)
    assert since(before, lambda: refusals(server, "overload"), refused) == refused
    assert capacity(served, requests) > 0.7 * full


def test_thousands_at_once_are_each_answered_or_refused(
    server: Server, served: Served, requests: Traffic, client: Client
) -> None:
    """Most of them before Triton hears of them. It died of such, at the latest when it was stopped."""
    messages = [requests.payloads[number % len(requests.payloads)] for number in range(5000)]
    before = server.process.pid
    for _ in range(3):
        quietly(client)
        found = burst(served.address, METHOD, messages, 40.0)
        assert set(found.status) == {0, 14}
        assert (found.status == 0).sum() > 10
        assert p99(found.seconds[found.status == 0]) <= 2 * GOAL + 1.0  # the machine needs a while to read them all
        assert p99(found.seconds[found.status == 14]) < 2.0
    assert server.process.pid == before
    assert server.ended is None


def test_triton_is_given_few_requests_at_a_time_that_it_has_not_begun(tmp_path: Path) -> None:
    """Where more than 1,000 wait it corrupts its memory, however long their callers would wait."""
    quick_build(make_checkpoint(tmp_path / "checkpoint"), tmp_path / "repository", "quick")
    with Server(tmp_path / "repository", grpc_port=0, http_port=0, metrics_port=0, latency_goal=0) as server:
        server.wait_ready()
        model = committed(server.repository, "quick")
        assert model is not None
        pending = "nv_inference_pending_request_count", step_name("quick", "tokenizer", model.build)
        message = RequestEncoder("quick", {}).encode(Batch(0, [TEXTS[0].encode()])).SerializeToString()
        most = 0.0
        with ThreadPoolExecutor(1) as threads:
            future = threads.submit(burst, server.grpc_url, METHOD, [message] * 5000, 60.0)
            while not future.done():
                most = max(most, metrics.read(server.metrics_url).get(pending, 0.0))
        assert set(future.result().status) == {0}
        assert 0 < most <= 400
        assert server.stop() == 0


def test_over_http_too_overload_is_refused_on_a_connection_that_goes_on(server: Server, client: Client) -> None:
    quietly(client)
    url = urlsplit(server.http_url)
    body = json.dumps({"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": [TEXTS[0]]}]})
    busy = [f"{index} {TEXTS[index % 64]} " * 4 for index in range(256)]
    before = refusals(server, "overload")
    connection = HTTPConnection(str(url.hostname), url.port, timeout=30)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.classify, NAME, busy, batch_size=256, timeout=60.0)
        time.sleep(0.5)
        statuses = []
        for _ in range(5):
            connection.request("POST", f"/v2/models/{NAME}/infer", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            statuses.append(answer.status)
            assert re.search(r"work waiting for this model.* Try again in [\d.]+ s\.$", json.load(answer)["error"])
        assert len(first.result()) == len(busy)
    assert statuses == [503] * 5
    connection.request("POST", f"/v2/models/{NAME}/infer", body, {"Content-Type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()
    assert since(before, lambda: refusals(server, "overload"), 5) >= 5


def test_a_refusal_says_when_to_try_again(server: Server, client: Client) -> None:
    quietly(client)
    encoder = RequestEncoder(NAME, {})
    request = encoder.encode(Batch(0, [text.encode() for text in TEXTS]))
    with wire.open_channel(grpc, server.grpc_url, None) as channel:
        stub = wire.stub(channel)
        futures = [stub.ModelInfer.future(request, timeout=30) for _ in range(60)]
        ends = [(future.code(), future.details()) for future in futures]
    codes = Counter(code for code, _ in ends)
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    for code, details in ends:
        if code is grpc.StatusCode.UNAVAILABLE:
            hint = re.search(r"latency goal is 1 s\. Try again in (\d+\.\d) s\.$", details)
            assert hint, details
            assert 0 < float(hint[1]) < 10


def test_a_request_larger_than_the_budget_is_taken_when_nothing_waits_and_counts_as_what_it_is(client: Client) -> None:
    """It takes several goals of time; meanwhile others are refused, and served as soon as it is over."""
    quietly(client)
    large = [f"{index} {TEXTS[index % 64]} " * 4 for index in range(256)]
    with ThreadPoolExecutor(1) as threads:
        begun = time.monotonic()
        future = threads.submit(client.classify, NAME, large, batch_size=256, result_type=Classification)
        time.sleep(0.5)
        with pytest.raises(Unavailable, match=r"work waiting for this model.*Try again in [\d.]+ s\.$"):
            client.classify(NAME, ["small"], retries=0)
        assert client.classify(NAME, ["small"], timeout=30.0)  # by trying again
        assert len(future.result()) == 256
        assert time.monotonic() - begun > 2 * GOAL, "not large enough to prove anything"


def test_the_client_gets_all_of_it_through_by_trying_again(server: Server, client: Client) -> None:
    quietly(client)
    before = refusals(server, "overload")
    texts = [f"{'word ' * (number % 17)} {TEXTS[number % 64]}" for number in range(600)]
    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(client.classify, NAME, texts, max_in_flight=8, timeout=60.0) for _ in range(3)]
        results = [call.result() for call in calls]
    counts = client.classify(NAME, texts, batch_size=1, timeout=60.0)  # a text's number of tokens tells it apart
    for result in results:
        assert [each.token_count for each in result] == [each.token_count for each in counts]
    assert since(before, lambda: refusals(server, "overload"), 1) >= 1, "there was no overload"


def encoded(server: Server) -> float:
    """Texts that reached the engine."""
    model = committed(server.repository, NAME)
    assert model is not None
    return metrics.read(server.metrics_url)["tritext_texts_total", step_name(NAME, "encoder", model.build)]


def test_work_whose_deadline_has_passed_is_not_begun(server: Server, client: Client) -> None:
    """A request waits behind others for longer than it has time: its texts never reach the encoder."""
    quietly(client)
    before = since(0.0, lambda: encoded(server), 0.0)
    busy = [f"{index} {TEXTS[index % 64]}" * 2 for index in range(128)]
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(client.classify, NAME, busy, batch_size=128)
        time.sleep(0.2)
        with pytest.raises((DeadlineExceeded, Unavailable)):
            client.classify(NAME, ["late"] * 5, timeout=0.3)
        assert len(first.result()) == 128
    assert since(before, lambda: encoded(server), 128) == 128


@pytest.mark.parametrize("way", ["cancel", "deadline", "hang up"])
def test_work_that_nobody_waits_for_any_more_is_not_begun(server: Server, client: Client, way: str) -> None:
    """Of a client that knows nothing of ours; another one's request, which has the same id, is answered."""
    quietly(client)
    before = since(0.0, lambda: encoded(server), 0.0)
    request = RequestEncoder(NAME, {}).encode(Batch(0, [b"late"] * 5))
    request.id = "the same"
    model = committed(server.repository, NAME)
    assert model is not None
    (encoder,) = processes_of(step_name(NAME, "encoder", model.build), server.segments)
    os.kill(encoder.pid, signal.SIGSTOP)
    try:
        with wire.open_channel(grpc, server.grpc_url, None) as other:
            with wire.open_channel(grpc, server.grpc_url, None) as channel:
                given_up = wire.stub(channel).ModelInfer.future(request, timeout=0.3 if way == "deadline" else None)
                kept = wire.stub(other).ModelInfer.future(request, timeout=30)
                time.sleep(0.2)
                if way == "cancel":
                    given_up.cancel()
                elif way == "deadline":
                    assert given_up.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            time.sleep(0.1)
            os.kill(encoder.pid, signal.SIGCONT)
            assert kept.result().outputs
    finally:
        os.kill(encoder.pid, signal.SIGCONT)
    assert since(before, lambda: encoded(server), 5) == 5


def test_a_killed_encoder_leaves_no_budget_eaten(server: Server, client: Client) -> None:
    """Last: it takes the encoder away and brings it back, as an operator would."""
    quietly(client)
    model = committed(server.repository, NAME)
    assert model is not None
    encoder = step_name(NAME, "encoder", model.build)
    busy = [f"{index} {TEXTS[index % 64]}" * 2 for index in range(256)]
    with ThreadPoolExecutor(1) as threads:
        lost = threads.submit(client.classify, NAME, busy, batch_size=256, retries=0)
        time.sleep(0.5)
        for process in processes_of(encoder, server.segments):
            process.kill()
        with pytest.raises(Unavailable):
            lost.result()
    remote: Any = server._remote
    remote.unload({encoder}, time.monotonic() + 10)
    remote._client.load_model(encoder, headers=remote._headers)
    begun = time.monotonic()
    assert client.classify(NAME, ["a"], retries=0)
    assert time.monotonic() - begun < 2.0
