"""The client and `tritext classify` against the embedded Triton with two small real models."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import checkpoints
from tritext import AsyncClient, Client
from tritext.build import BuildOptions, build
from tritext.build.source import locate
from tritext.client import CallOptions, Classification, TokenClassification, affected
from tritext.errors import ClientError, DeadlineExceeded, InvalidInput, ModelNotFound, Unavailable
from tritext.serve import Server
from tritext.serve.steps import step_processes

LABELS = checkpoints.HEADS["single"].labels
TEXTS = [f"Text number {index} " + "of some length " * (index % 9) for index in range(150)]
HARD = ["", "a\x00b", "👩‍🔬 Ada", "\u202eabc", "\U000e0fff", "x" * 1_000_000, "a " * 200_000]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each task, for at most 16 texts a request."""
    folder = tmp_path_factory.mktemp("client")
    for name in ("single", "tokens"):
        bert, head = checkpoints.ARCHITECTURES["bert"], checkpoints.HEADS[name]
        checkpoint = checkpoints.make(folder / name, bert, head)
        options = BuildOptions(name, folder / "repository", "openvino", "fp32", max_batch_size=16)
        build(locate(str(checkpoint), None), options)
    return folder / "repository"


def serve(repository: Path) -> Server:
    return Server(repository, grpc_port=0, http_port=0, metrics_port=0)


@pytest.fixture(scope="module")
def address(repository: Path) -> Iterator[str]:
    with serve(repository) as server:
        server.wait_ready()
        yield server.grpc_url


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


def one_by_one(client: Client, texts: list[str], **options: Any) -> list[Any]:
    return [client.classify("single", [text], **options)[0] for text in texts]


def close(left: Classification, right: Classification) -> bool:
    """Equal but for what another batch does to floats."""
    scores = zip(left.labels, right.labels, strict=True)
    return left.token_count == right.token_count and all(
        a.label == b.label and abs(a.score - b.score) < 1e-5 for a, b in scores
    )


def test_model(client: Client) -> None:
    info = client.model("single")
    assert (info.task, info.labels, info.max_length, info.max_batch_size) == ("text-classification", LABELS, 128, 16)
    assert len(info.build) == 8


def test_many_texts_get_in_order_what_each_gets_alone(client: Client) -> None:
    alone = one_by_one(client, TEXTS, top_k=None)
    every: CallOptions = {"top_k": None}
    ways: list[CallOptions] = [every, {**every, "batch_size": 5, "max_in_flight": 8}, {**every, "batch_size": 500}]
    for way in ways:
        together = client.classify("single", TEXTS, result_type=Classification, **way)
        assert all(close(a, b) for a, b in zip(together, alone, strict=True))
    assert len({result.labels[0].score for result in alone}) > 100


def test_the_asynchronous_client_gives_the_same(client: Client) -> None:
    async def ask() -> list[Classification]:
        async with AsyncClient(client.address) as other:
            return await other.classify("single", TEXTS, result_type=Classification)

    pairs = zip(asyncio.run(ask()), client.classify("single", TEXTS, result_type=Classification), strict=True)
    assert all(close(a, b) for a, b in pairs)


def test_threads_share_a_client(client: Client) -> None:
    expected = client.classify("single", TEXTS[:40], result_type=Classification)
    answers: dict[int, list[Classification]] = {}

    def ask(index: int) -> None:
        answers[index] = client.classify("single", TEXTS[:40], result_type=Classification, batch_size=index + 1)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(close(a, b) for answer in answers.values() for a, b in zip(answer, expected, strict=True))
    assert len(answers) == 8


def test_parameters_and_pairs(client: Client) -> None:
    (every,) = client.classify("single", ["some text"], result_type=Classification, top_k="all")
    assert sorted(pair.label for pair in every.labels) == sorted(LABELS)
    assert every.labels == tuple(sorted(every.labels, key=lambda pair: -pair.score))
    (above,) = client.classify("single", ["some text"], result_type=Classification, top_k=None, threshold=0.2)
    assert above.labels == tuple(pair for pair in every.labels if pair.score >= 0.2)
    (none,) = client.classify("single", ["some text"], result_type=Classification, threshold=1.0)
    assert none.labels == ()
    (pair,) = client.classify("single", [("some text", "")], result_type=Classification, top_k=None)
    assert pair.token_count == every.token_count + 1
    assert not close(pair, every)


def test_entities_are_stretches_of_the_text_as_sent(client: Client) -> None:
    texts = ["Grüße aus Zürich 👩‍🔬 an Ada", "", "日本語のテキスト"]
    results = client.classify(
        "tokens", texts, result_type=TokenClassification, aggregation_strategy="simple", ignore_labels=[]
    )
    for text, result in zip(texts, results, strict=True):
        assert all(text[entity.start : entity.end] == entity.word for entity in result.entities)
    assert [bool(result.entities) for result in results] == [True, False, True]
    (kept,) = client.classify(
        "tokens", texts[:1], result_type=TokenClassification, aggregation_strategy="simple", ignore_labels=["O", "PER"]
    )
    names = {entity.label for entity in results[0].entities}
    assert {entity.label for entity in kept.entities} == names - {"O", "PER"}


def test_hard_texts_are_texts(client: Client) -> None:
    for name in ("single", "tokens"):
        results = client.classify(name, HARD)
        assert [result.truncated for result in results] == [False] * 6 + [True]
        assert results[-1].token_count == 200_002


def test_a_text_that_is_too_long_is_named_as_the_caller_counts(client: Client) -> None:
    texts = [*TEXTS[:37], "word " * 500, *TEXTS[37:]]
    with pytest.raises(InvalidInput, match=r"^TEXT\[37\] has \d+ tokens, this model takes 128\.") as caught:
        client.classify("single", texts, truncation="error")
    assert affected(caught.value) == range(37, 38)
    assert client.classify("single", texts, truncation="left")[37].truncated


def test_a_parameter_that_the_model_does_not_know(client: Client) -> None:
    with pytest.raises(InvalidInput, match=r"Parameter 'top_kk' is unknown\. Did you mean top_k\?"):
        client.classify("single", ["a"], top_kk=2)  # type: ignore[call-overload]
    with pytest.raises(InvalidInput, match="threshold is 7; it must be a number from 0 to 1"):
        client.classify("single", ["a"], threshold=7)


def test_models_that_are_not_there(client: Client) -> None:
    with pytest.raises(ModelNotFound, match="has no model absent"):
        client.classify("absent", ["a"])
    step = f"single_encoder_{client.model('single').build}"
    with pytest.raises(InvalidInput, match="not a model made by `tritext build`, or only a step of one"):
        client.classify(step, ["a"])


def test_a_deadline(client: Client) -> None:
    client.model("single")
    # The server itself says so where it knows before the time is over.
    with pytest.raises(
        (DeadlineExceeded, Unavailable), match=r"did not answer within 0\.01 s|this request may take 0\.0"
    ):
        client.classify("single", HARD, timeout=0.01)
    assert client.classify("single", ["still there"])


def classify(address: str, *arguments: object, stdin: str = "") -> str:
    command = [sys.executable, "-c", "from tritext.cli import main; main()", "classify", *map(str, arguments)]
    done = subprocess.run([*command, "--url", address], input=stdin, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_the_command(client: Client) -> None:
    expected = client.classify("single", TEXTS, result_type=Classification)
    lines = classify(client.address, "single", "-", "--json", stdin="".join(text + "\n" for text in TEXTS)).splitlines()
    documents = [json.loads(line) for line in lines]
    assert [document["text"] for document in documents] == TEXTS
    assert [document["labels"][0]["label"] for document in documents] == [result.label for result in expected]
    assert str(expected[0].label) in classify(client.address, "single", TEXTS[0])
    assert "nothing found" in classify(client.address, "tokens", "")


def test_a_server_that_loses_a_process_and_then_goes_away(repository: Path) -> None:
    with serve(repository) as server:
        server.wait_ready()
        with Client(server.grpc_url) as client:
            assert client.classify("single", ["a"])
            encoders = [each for each in step_processes(server.segments) if each.step.startswith("single_encoder_")]
            assert encoders
            for encoder in encoders:  # one for each instance
                encoder.kill()
            time.sleep(0.5)
            with pytest.raises(Unavailable, match="cannot serve model single now"):
                client.classify("single", ["a"], retries=1)
            assert client.classify("tokens", ["a"])
            server.stop()
            with pytest.raises(ClientError, match=r"Nobody answers|has no model|cannot serve"):
                client.classify("tokens", ["a"])
