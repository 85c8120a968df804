"""New builds while requests are answered: taken, gone back from, refused, removed."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervised import Supervised, ask, supervised, traffic
from typer.testing import CliRunner

from building import make_checkpoint, quick_build, record_anew
from tritext.build import release
from tritext.cli import app
from tritext.errors import RepositoryError, ServeError
from tritext.repository import BuiltModel, committed
from tritext.serve.steps import step_processes
from waiting import until

TEXT = "All human beings are born free and equal in dignity and rights."


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    # The second has another vocabulary: one's ids mean nothing to the other's encoder.
    return [make_checkpoint(folder / str(seed), seed=seed) for seed in (1, 2)]


@pytest.fixture
def repository(tmp_path: Path, checkpoints: list[Path]) -> Path:
    quick_build(checkpoints[0], tmp_path / "repository")
    quick_build(checkpoints[1], tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def running(repository: Path) -> Iterator[Supervised]:
    with supervised(repository) as started:
        yield started


def builds(repository: Path) -> tuple[str, str]:
    """The one before the committed one, and the committed one."""
    model = committed(repository, "model")
    assert model is not None
    before = model.manifest().replaces
    assert before is not None
    return before, model.build


def loaded(running: Supervised) -> set[str]:
    """The steps that Triton holds."""
    index = running.server.remote._client.get_model_repository_index(headers=running.server.remote._headers)
    return {model.name for model in index.models if model.state not in {"", "UNAVAILABLE"}}


def test_builds_are_swapped_under_load_and_no_request_fails(running: Supervised, repository: Path) -> None:
    url = running.server.grpc_url
    old, new = builds(repository)
    right = {new: ask(url, TEXT, "model")}
    with traffic(url, "model", TEXT) as seen:
        for build in (old, new, old, new, old):
            release.rollback(repository, "model", build)
            until(lambda build=build: running.state("model").get("build") == build, lambda: running.told)
            right.setdefault(build, ask(url, TEXT, "model"))
            assert ask(url, TEXT, "model") == right[build]
    assert seen.errors == [], running.told
    assert len(right) == 2
    assert {answer for _, answer in seen.answers} == set(right.values())  # never one's tokens in the other's encoder
    until(lambda: loaded(running) == {"model", *BuiltModel(repository, "model", old).manifest().steps.values()})


def test_a_build_that_is_wrong_never_takes_the_place_of_a_good_one(running: Supervised, repository: Path) -> None:
    url = running.server.grpc_url
    old, new = builds(repository)
    right = ask(url, TEXT, "model")
    broken = BuiltModel(repository, "model", old)
    (engine,) = broken.step("encoder").glob("*.onnx")
    engine.write_bytes(engine.read_bytes()[:-100])
    with traffic(url, "model", TEXT) as seen:
        shutil.copy(broken.folder / "config.pbtxt", repository / "model" / "config.pbtxt")
        until(lambda: running.state("model")["refused_build"] == old, lambda: running.told, patience=90)
    state = running.state("model")
    assert state["build"] == new
    assert state["ready"]
    assert engine.name in state["refused"]
    assert seen.errors == []
    assert {answer for _, answer in seen.answers} == {right}
    # Not even when Triton has to be started again while the wrong one is committed.
    first = running.server.process.pid
    os.kill(first, signal.SIGKILL)
    until(lambda: any("answers again" in line for line in running.told), lambda: running.told, patience=90)
    assert running.server.process.pid != first
    assert ask(url, TEXT, "model") == right
    with pytest.raises(RepositoryError, match="missing or not as built"):
        release.rollback(repository, "model", old)


def test_a_build_that_was_put_right_and_committed_again_is_waited_for(running: Supervised, repository: Path) -> None:
    old, new = builds(repository)
    broken = BuiltModel(repository, "model", old)
    code = broken.step("encoder") / "model.py"
    whole = code.read_bytes()
    code.write_bytes(whole + b"raise RuntimeError('out of memory')\n")
    record_anew(broken)
    command = ["rollback", str(repository), "model", "--wait", f"{running.url}/ready", "--timeout", "90"]
    ran = CliRunner().invoke(app, [*command, "--to", old])
    assert isinstance(ran.exception, ServeError), ran.output
    assert f"The server refuses build {old} of model: " in str(ran.exception)
    state = running.state("model")
    assert (state["build"], state["refused_build"]) == (new, old)
    code.write_bytes(whole)
    record_anew(broken)
    ran = CliRunner().invoke(app, [*command, "--to", old])
    assert ran.exit_code == 0, (ran.exception, running.told)
    assert f"build {old} answers." in ran.stdout
    state = running.state("model")
    assert (state["build"], state["refused_build"], state["refused_commit"]) == (old, None, None)


def test_a_build_is_not_refused_for_a_triton_that_ends_meanwhile(
    running: Supervised, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, _ = builds(repository)
    load, killed = running.server.load, []

    def dying(step: str, timeout: float) -> None:
        if not killed and step.endswith(old):
            killed.append(running.server.process.pid)
            os.kill(killed[0], signal.SIGKILL)
        load(step, timeout)

    monkeypatch.setattr(running.server, "load", dying)
    release.rollback(repository, "model", old)
    until(lambda: running.state("model").get("build") == old, lambda: running.told, patience=90)
    assert killed
    assert not running.state("model")["refused"]
    assert any("is tried again" in line for line in running.told)


def test_models_come_and_go_while_others_answer(
    running: Supervised, repository: Path, tmp_path: Path, checkpoints: list[Path]
) -> None:
    url = running.server.grpc_url
    quick_build(checkpoints[0], tmp_path / "elsewhere", "second")
    with traffic(url, "model", TEXT) as seen:
        found = committed(tmp_path / "elsewhere", "second")
        assert found is not None
        release.deploy(found, repository)
        until(lambda: running.state("second").get("ready"), lambda: running.told)
        assert ask(url, TEXT, "second") != ask(url, TEXT, "model")
        release.remove(repository, "second")
        until(lambda: not running.state("second"), lambda: running.told)
        until(lambda: not [each for each in step_processes(running.server.segments) if "second" in each.step])
    assert seen.errors == []
    assert not list(repository.glob("second*"))
