"""A container answers raw text with the checkpoint's labels, whoever asks and however many do."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import served
from docker_engine import Container


@pytest.fixture(scope="module")
def expected(checkpoints: dict[str, Path]) -> dict[str, served.Answers]:
    return {
        "labels": served.expected_labels(checkpoints["labels"]),
        "entities": served.expected_entities(checkpoints["entities"]),
    }


def test_grpc_gets_the_checkpoints_labels_from_both_models(
    server: Container, expected: dict[str, served.Answers]
) -> None:
    assert len(set(expected["labels"])) > 1
    assert any(expected["entities"])
    assert served.labels(server.address(8001)) == expected["labels"]
    assert served.entities(server.address(8001)) == expected["entities"]


def test_http_gets_the_same_labels(server: Container, expected: dict[str, served.Answers]) -> None:
    asked = [server.http("POST", "/v2/models/labels/generate", {"TEXT": text}) for text in served.TEXTS]
    assert [status for status, _ in asked] == [200] * len(asked)
    assert [json.loads(body)["LABEL"] for _, body in asked] == expected["labels"]


def test_several_processes_at_once_each_get_their_own_answers(
    server: Container, expected: dict[str, served.Answers]
) -> None:
    clients, rounds = 4, 100
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(clients, mp_context=spawned) as pool:
        asked = [pool.submit(served.ask_often, server.address(8001), seed, rounds) for seed in range(clients)]
        answers = [answer for future in asked for answer in future.result(timeout=120)]
    assert len(answers) == clients * rounds
    assert [a for a in answers if a[2] != expected[a[0]][a[1]]] == []
