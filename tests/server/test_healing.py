"""What dies, hangs or takes all memory is brought back alone, and the readiness endpoint tells the truth meanwhile."""

import http.client
import json
import os
import signal
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import tritonclient.grpc as triton
from supervised import Supervised, ask, supervised, traffic

from benchmarks.reliability.faults import Faults, pids
from building import make_checkpoint, quick_build
from tritext.engines.turns import Turn
from tritext.errors import ServeError
from tritext.naming import ROLES, step_name
from tritext.repository import committed
from tritext.serve import ensemble, healer
from tritext.serve.guardian import SHARED_MEMORY
from tritext.serve.launch import Command
from waiting import until

TEXT = "All human beings are born free and equal in dignity and rights."
STEP_MEMORY = 1_500_000_000


@dataclass(frozen=True)
class Place:
    """A supervised server of two models whose steps listen to `faults`."""

    running: Supervised
    faults: Faults

    def step(self, role: str, model: str = "model") -> str:
        found = committed(self.faults.repository, model)
        assert found is not None
        return step_name(model, role, found.build)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("healing")
    checkpoint = make_checkpoint(folder / "checkpoint")
    for name in ("model", "other"):
        quick_build(checkpoint, folder / "repository", name)
    return folder / "repository"


@pytest.fixture(scope="module")
def place(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    faults = Faults(built, tmp_path_factory.mktemp("faults"))
    with supervised(faults.repository, step_memory=STEP_MEMORY) as running:
        yield Place(running, faults)


def segments(running: Supervised) -> list[Path]:
    """What the server's steps keep in shared memory, and the server itself."""
    return list(SHARED_MEMORY.glob(f"{running.server.segments}*"))


def triton_of(running: Supervised) -> int:
    """Its process; 0 while it is being started again: who dies with a lock of shared memory takes it along."""
    try:
        return running.server.process.pid
    except ServeError:
        return 0


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
            return int(answer.status), json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(("kind", "role"), [
    *(("kill", role) for role in ROLES), *(("hang", role) for role in ROLES),
    ("stop", "encoder"), ("memory", "tokenizer"),
])  # fmt: skip
def test_a_step_is_brought_back_alone(place: Place, kind: str, role: str) -> None:
    running, step = place.running, place.step(role)
    url, server = running.server.grpc_url, running.server.process.pid
    right = ask(url, TEXT, "model")
    others = {other: pids(other, server) for model in ("model", "other") for each in ROLES
              if (other := place.step(each, model)) != step}  # fmt: skip
    restarts = running.state("model")["restarts"]
    with traffic(url, "other", TEXT, callers=1) as neighbour, traffic(url, "model", TEXT, callers=2) as seen:
        place.faults.inflict(kind, step, server)
        until(lambda: running.state("model")["restarts"] > restarts, lambda: running.told)
        until(lambda: running.state("model")["ready"], lambda: running.told)
        assert ask(url, TEXT, "model") == right
    assert neighbour.errors == []
    assert {answer for _, answer in seen.answers} <= {right}
    assert {error.split(" ")[0] for _, error in seen.errors} <= {
        "StatusCode.INTERNAL", "StatusCode.NOT_FOUND", "StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED",
    }  # fmt: skip
    assert {other: pids(other, server) for other in others} == others
    assert get(f"{running.url}/ready")[0] == 200
    assert step in [line for line in running.told if "brought back" in line][-1]


def test_who_waits_for_its_turn_is_not_taken_for_hanging(place: Place) -> None:
    running = place.running
    url, server = running.server.grpc_url, running.server.process.pid
    encoders = [place.step("encoder", model) for model in ("model", "other")]
    before = {step: pids(step, server) for step in encoders}
    with Turn(Path(tempfile.gettempdir())):  # as an encoder of another server has that was stopped in a call
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            for model in ("model", "other"):
                ask(url, TEXT, model)
            time.sleep(0.2)
    assert {step: pids(step, server) for step in encoders} == before


def test_the_endpoint_tells_the_truth(place: Place) -> None:
    running = place.running
    server, step = running.server.process.pid, place.step("encoder")
    status, said = get(f"{running.url}/ready")
    assert status == 200
    assert set(said["models"]) == {"model", "other"}
    place.faults.inflict("kill", step, server)
    until(lambda: get(f"{running.url}/ready")[0] == 503, patience=10)
    assert get(f"{running.url}/ready/other")[0] == 200
    assert get(f"{running.url}/live")[0] == 200
    with closing(http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=10)) as connection:
        connection.request("HEAD", "/live")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
    until(lambda: get(f"{running.url}/ready")[0] == 200)
    assert get(f"{running.url}/ready/absent")[0] == 404
    with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as answer:  # noqa: S310 - our own server
        metrics = answer.read().decode()
    assert f'tritext_restarts_total{{cause="died",model="model",step="{step}"}}' in metrics
    assert "tritext_model_ready{model=" in metrics


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSTOP])
def test_triton_itself_is_started_again(built: Path, signal_: signal.Signals) -> None:
    with supervised(built) as running:
        url, ready = running.server.grpc_url, running.url
        right = ask(url, TEXT, "model")
        first = running.server.process.pid
        os.kill(first, signal_)
        until(lambda: get(f"{ready}/ready")[0] == 503, lambda: running.told)
        until(lambda: get(f"{ready}/ready")[0] == 200, lambda: running.told, patience=90)
        assert running.server.process.pid != first
        assert ask(url, TEXT, "model") == right


def kill_and_keep_dead(running: Supervised, cache: Path, step: str) -> None:
    """Kill `step`; what Triton starts in its place dies before its first word, until Triton waits for that in vain."""
    (stub,) = cache.rglob("triton_python_backend_stub")
    target = stub.readlink()
    stub.unlink()
    stub.symlink_to("/bin/true")
    for pid in pids(step, triton_of(running)):
        os.kill(pid, signal.SIGKILL)
    until(lambda: running.server.is_loading, lambda: running.told)
    time.sleep(0.5)
    assert running.server.is_loading
    stub.unlink()
    stub.symlink_to(target)


def test_a_process_that_dies_before_its_first_word_is_started_again(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # Triton starts what lies there
    with supervised(built) as running:
        url, step = running.server.grpc_url, ensemble.steps(running.server.models[0])[1]
        name, server = running.server.models[0].name, running.server.process.pid
        right, other = ask(url, TEXT, "model"), ask(url, TEXT, "other")
        kill_and_keep_dead(running, tmp_path, step)
        assert ask(url, TEXT, "other") == other
        until(lambda: running.state(name)["restarts"] == 1, lambda: running.told)
        until(lambda: running.state(name)["ready"], lambda: running.told)
        assert ask(url, TEXT, "model") == right
        assert len(pids(step, server)) == 1
        assert any(f"{step} died as it started" in line or "is not healthy" in line for line in running.told)


def test_triton_is_started_again_where_it_waits_for_a_process_that_is_no_more(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(healer, "_LOAD", 3.0)
    monkeypatch.setattr(Command, "start", lambda *_: Popen(["/bin/true"]))  # nor does anybody speak for it
    with supervised(built) as running:
        step, server = ensemble.steps(running.server.models[0])[1], running.server.process.pid
        right = ask(running.server.grpc_url, TEXT, "model")
        kill_and_keep_dead(running, tmp_path, step)
        until(lambda: triton_of(running) not in (0, server), lambda: running.told)
        until(lambda: running.state("model")["ready"], lambda: running.told)
        assert ask(running.server.grpc_url, TEXT, "model") == right
        assert any(f"neither loads {step} nor lets go of it" in line for line in running.told)


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_may_be_hit_as_soon_as_it_is_there(place: Place, signal_: signal.Signals) -> None:
    running, step = place.running, place.step("postprocess")
    right = ask(running.server.grpc_url, TEXT, "model")

    def found() -> set[int]:
        return set(pids(step, triton_of(running)))

    (old,) = found()
    os.kill(old, signal.SIGKILL)
    until(lambda: found() - {old}, lambda: running.told)
    (new,) = found() - {old}
    os.kill(new, signal_)
    until(lambda: found() - {old, new} and running.state("model")["ready"], lambda: running.told)
    assert ask(running.server.grpc_url, TEXT, "model") == right


def test_memory_of_the_dead_is_given_back(place: Place) -> None:
    running = place.running
    before = len(segments(running))
    for role in ROLES:
        server, restarts = triton_of(running), running.state("model")["restarts"]

        def is_over(server: int = server, restarts: int = restarts) -> bool:
            is_back = running.state("model")["restarts"] > restarts or triton_of(running) not in (0, server)
            return is_back and running.state("model")["ready"]

        with traffic(running.server.grpc_url, "model", TEXT, callers=2):
            place.faults.inflict("kill", place.step(role), server)
            until(is_over, lambda: running.told)
    until(lambda: len(segments(running)) <= before, lambda: (sorted(map(str, segments(running))), running.told))


def test_a_request_is_always_answered(place: Place) -> None:
    url, step = place.running.server.grpc_url, place.step("tokenizer")
    place.faults.inflict("stop", step, place.running.server.process.pid)
    try:
        ask(url, TEXT, "model")
    except triton.InferenceServerException as error:
        assert str(error.status()) in {"StatusCode.INTERNAL", "StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND"}  # noqa: PT017
    until(lambda: place.running.state("model")["ready"])
