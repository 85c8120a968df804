"""`tritext bench` against the embedded Triton with a small real model: its counts, and the server's own account."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import checkpoints
import planning
from building import make_checkpoint, quick_build
from checkpoints import ARCHITECTURES, SEQUENCE, Head
from tritext import Client
from tritext.build.checkpoint import Overrides
from tritext.cli import app
from tritext.engines.plan import PLAN
from tritext.serve import Server
from tritext.serve import prepare as preparing
from tritext.serve.ensemble import plan_folder

COMMAND = [sys.executable, "-c", "from tritext.cli import main; main()", "bench", "--texts", "64"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    quick_build(make_checkpoint(folder / "checkpoint"), folder / "repository", "single", max_batch_size=16)
    labels = Head(SEQUENCE, ("contradiction", "neutral", "entailment"))
    inference = checkpoints.make(folder / "inference", ARCHITECTURES["bert"], labels)
    quick_build(inference, folder / "repository", "nli", overrides=Overrides(task="zero-shot-classification"))
    quick_build(make_checkpoint(folder / "masked", "masked"), folder / "repository", "masks")
    return folder / "repository"


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with Server(repository, grpc_port=0, http_port=0, metrics_port=0) as server:
        server.wait_ready()
        yield server


def bench(*arguments: object, model: str = "single") -> "subprocess.CompletedProcess[str]":
    line = [*COMMAND, model, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, timeout=120, check=False, text=True)
    assert "Traceback" not in done.stderr
    return done


def document(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_the_client_and_the_server_counted_agree(server: Server) -> None:
    found = document(
        bench(
            *("--url", server.grpc_url, "--metrics-url", server.metrics_url, "--lengths", "10,20,30"),
            *("--batch-size", 4, "--concurrency", 4, "--rate", 20, "--duration", 1, "--warmup", 0.2, "--json"),
        )
    )
    texts = found["texts"]
    assert texts["from"] == "log-normal with median 10, 95th percentile 20 and maximum 30 tokens"
    assert (texts["texts"], texts["median"], texts["p95"]) == (64, 10, 20)
    assert 20 < texts["longest"] <= 30
    for level in found["results"]:
        assert level["failed"] == {}
        assert level["texts_per_second"] == pytest.approx(4 * level["requests_per_second"])
        assert 9 < level["tokens_per_second"] / level["texts_per_second"] < 14
        side = level["server"]
        assert min(side[part] for part in ("tokenize", "encode", "postprocess")) > 0
        # What the server says that a request took is no more than what the client waited, but for the edges.
        assert sum(side[part] for part in ("queue", "tokenize", "encode", "postprocess")) < 1.5 * level["mean"] + 5
        assert side["requests_per_batch"] >= 1
    assert [level["loop"] for level in found["results"]] == ["closed", "open"]


def test_all_texts_have_the_length_that_was_asked_for_and_the_model_counts_the_same(server: Server) -> None:
    found = document(
        bench(
            *("--url", server.grpc_url, "--metrics-url", server.metrics_url, "--lengths", "16"),
            *("--concurrency", 1, "--requests", 20, "--warmup", 0, "--json"),
        )
    )
    level = found["results"][0]
    assert (level["requests"], found["texts"]["median"], found["texts"]["longest"]) == (20, 16, 16)
    assert level["tokens_per_second"] == pytest.approx(16 * level["texts_per_second"])


def test_lists_that_a_task_needs_go_with_every_request(server: Server) -> None:
    load = ("--url", server.grpc_url, "--metrics-url", server.metrics_url, "--requests", 20, "--warmup", 0, "--json")
    found = document(bench(*load, "--set", "candidate_labels=food,politics", model="nli"))
    assert found["parameters"] == {"candidate_labels": "food,politics"}
    assert [level["failed"] for level in found["results"]] == [{}] * 3
    without = bench(*load, model="nli")
    assert without.returncode == 2
    assert "needs candidate_labels" in without.stderr


def test_every_row_of_a_text_counts_where_it_becomes_several(server: Server, tmp_path: Path) -> None:
    load = ("--url", server.grpc_url, "--metrics-url", server.metrics_url, "--requests", 20, "--warmup", 0.2, "--json")
    once = (*load, "--concurrency", 2, "--batch-size", 2)
    found = document(bench(*once, "--lengths", 60, "--set", "candidate_labels=food,politics", model="nli"))
    level = found["results"][0]
    # The longer of the two rows has 60 tokens, the other one, with another label, nearly as many.
    assert 1.7 * 60 < level["tokens_per_second"] / level["texts_per_second"] <= 2 * 60 + 0.01
    path = tmp_path / "long.txt"
    path.write_text("All human beings are born free and equal in dignity and rights. " * 40, encoding="utf-8")
    found = document(bench(*once, "--file", path, "--set", "truncation=window"))
    tokens = found["results"][0]["tokens_per_second"] / found["results"][0]["texts_per_second"]
    assert found["texts"]["longest"] < tokens < 3 * found["texts"]["longest"]  # windows overlap
    cut = document(bench(*once, "--file", path, "--set", "truncation=right"))["results"][0]
    assert cut["tokens_per_second"] == pytest.approx(128 * cut["texts_per_second"])


def test_texts_for_a_model_that_fills_masks_have_one(server: Server) -> None:
    load = ("--url", server.grpc_url, "--metrics-url", server.metrics_url, "--requests", 20, "--warmup", 0, "--json")
    found = document(bench(*load, "--lengths", 40, model="masks"))
    assert [level["failed"] for level in found["results"]] == [{}] * 3
    assert (found["texts"]["median"], found["texts"]["longest"]) == (40, 40)


def test_a_repository_without_its_plan_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = quick_build(make_checkpoint(tmp_path / "checkpoint"), tmp_path / "repository", engine="tensorrt").model
    folder = plan_folder(model)
    assert folder is not None
    assert not (folder / PLAN).exists()
    monkeypatch.setenv(preparing.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr(preparing, "this_machine", lambda: planning.MACHINE)
    monkeypatch.setitem(preparing.prepare.__kwdefaults__, "build", planning.build_plan)
    command = ["bench", "model", "--repository", str(model.repository), "--requests", "5", "--warmup", "0", "--json"]
    with planning.standin(tmp_path):
        ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, (ran.exception, ran.stderr)
    assert f"model needs a plan for {planning.MACHINE}: there is none yet." in ran.stderr
    assert (folder / PLAN).is_file()
    assert [level["failed"] for level in json.loads(ran.stdout)["results"]] == [{}] * 3


def test_parameters_reach_the_model(server: Server) -> None:
    done = bench("--url", server.grpc_url, "--set", "top_k=none")
    assert done.returncode == 2
    assert "error: Parameter top_k is 'none'; it must be" in done.stderr
    found = document(
        bench(
            "--url",
            server.grpc_url,
            "--set",
            "top_k=all",
            "--requests",
            5,
            "--warmup",
            0,
            "--concurrency",
            1,
            "--json",
        )
    )
    assert found["parameters"] == {"top_k": "all"}
    assert found["results"][0]["failed"] == {}


def test_a_repository_is_served_and_the_server_stopped(repository: Path) -> None:
    load = ("--concurrency", 2, "--duration", 0.5, "--warmup", 0.1)
    found = document(bench("--repository", repository, *load, "--json"))
    assert found["results"][0]["server"]["encode"] > 0
    host, _, port = found["model"]["address"].partition(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
    done = bench("--repository", repository / "missing", *load)
    assert done.returncode == 1
    assert "error: " in done.stderr


def test_the_server_still_answers_as_before(server: Server) -> None:
    with Client(server.grpc_url) as client:
        alone = client.classify("single", ["All human beings"])
        assert bench("--url", server.grpc_url, "--requests", 50, "--warmup", 0, "--concurrency", 8).returncode == 0
        assert client.classify("single", ["All human beings"])[0].label == alone[0].label
