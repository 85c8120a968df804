"""Requests of thousands of texts: answered as small ones are, and nobody waits for their end."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from building import make_checkpoint, quick_build
from tritext import Client
from tritext.bench import metrics
from tritext.client import Classification
from tritext.engines.turns import TURNS
from tritext.serve import Server
from waiting import until

NAMES = ("one", "other")
LARGE = 4096
WORDS = "all human beings are born free and equal in dignity and rights"
LONG = [f"{index} {WORDS} {index % 7} {WORDS[: index % 60]}" for index in range(LARGE)]
# Between this and what a server manages that makes everybody wait lies a factor of ten at least.
MEANWHILE = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models, wide enough that thousands of texts take them a second or more."""
    folder = tmp_path_factory.mktemp("large")
    for seed, name in enumerate(NAMES):
        checkpoint = make_checkpoint(folder / name, seed=seed, hidden_size=192, intermediate_size=384)
        quick_build(checkpoint, folder / "repository", name, max_batch_size=LARGE, instances=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TURNS, str(folder))  # turns among themselves, whatever else this machine serves
        with Server(folder / "repository", grpc_port=0, http_port=0, metrics_port=0) as server:
            server.wait_ready()
            yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc_url) as client:
        yield client


def ask(client: Client, name: str, texts: list[str], batch_size: int) -> list[Classification]:
    return client.classify(name, texts, result_type=Classification, batch_size=batch_size, top_k="all")


def requests_to(server: Server, name: str) -> float:
    return metrics.read(server.metrics_url)[("nv_inference_request_success", name)]


def answered_before(client: Client, name: str, large: "Future[list[Classification]]") -> int:
    """How many requests of one text, one after the other, are answered before `large` is."""
    count = 0
    while not large.done():
        ask(client, name, [f"{WORDS} {count}"], 1)
        count += not large.done()
    return count


def test_a_request_of_thousands_gets_the_answers_that_small_requests_get(server: Server, client: Client) -> None:
    before = requests_to(server, "one")
    large = ask(client, "one", LONG, LARGE)
    until(lambda: requests_to(server, "one") > before)  # Triton answers first and counts then
    assert requests_to(server, "one") == before + 1
    small = ask(client, "one", LONG, 16)
    assert len({result.score for result in large}) > LARGE / 2, "texts that differ too little to be told apart"
    for one, other in zip(large, small, strict=True):
        assert one.token_count == other.token_count
        scores = {pair.label: pair.score for pair in other.labels}
        assert {pair.label: pair.score for pair in one.labels} == pytest.approx(scores, abs=1e-4)


def test_small_requests_are_answered_before_a_large_one_that_came_first(client: Client) -> None:
    with ThreadPoolExecutor(1) as threads:
        large = threads.submit(ask, client, "one", LONG, LARGE)
        assert answered_before(client, "one", large) >= MEANWHILE
    assert len(large.result()) == LARGE


def test_two_models_with_a_large_request_each_both_answer_small_ones_meanwhile(client: Client) -> None:
    with ThreadPoolExecutor(4) as threads:
        large = {name: threads.submit(ask, client, name, LONG, LARGE) for name in NAMES}
        small = {name: threads.submit(answered_before, client, name, large[name]) for name in NAMES}
        assert {name: future.result() >= MEANWHILE for name, future in small.items()} == dict.fromkeys(NAMES, True)
    assert all(len(future.result()) == LARGE for future in large.values())
