"""What others do to a repository that is served: models that are no good, folders that cannot be read, and removals."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import toy
from supervised import Supervised, ask, supervised
from test_serve import on_free_ports

from building import make_checkpoint, quick_build
from tritext.build import release
from tritext.naming import ENGINE_ROLE, ROLES, step_name
from tritext.repository import CONFIG, VERSION, committed
from tritext.serve.rollout import Rollouts
from tritext.serve.steps import step_processes
from tritext.serve.supervisor import Supervisor
from waiting import until

OLD, NEW = "00000001", "00000002"
SLOW = """
    import time

    import numpy as np
    import triton_python_backend_utils as pb

    from tritext import contract

    class TritonPythonModel:
        def initialize(self, args):
            time.sleep(3)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    toy.write(tmp_path / "repository", build=OLD)
    return tmp_path / "repository"


@pytest.fixture
def running(repository: Path) -> Iterator[Supervised]:
    with supervised(repository) as started:
        yield started


def label(running: Supervised, model: str) -> str:
    return ask(running.server.grpc_url, "Hi", model)[0]


def test_whoever_deploys_a_new_model_that_is_refused_learns_why_at_once(
    running: Supervised, repository: Path, tmp_path: Path
) -> None:
    toy.write(tmp_path / "staging", "second", bias=0.25)
    program = [sys.executable, "-c", "from tritext.cli import main; main()"]
    command = [*program, "deploy", str(tmp_path / "staging" / "second"), str(repository)]
    wait = ["--wait", f"{running.url}/ready", "--timeout", "300"]
    ran = subprocess.run([*command, *wait], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 1
    assert "The server refuses build 0000abcd of second: Model second (build 0000abcd" in ran.stderr
    # Those that are served are not taken out of service because somebody offered what is no good.
    assert running.supervisor.status.is_ready
    assert label(running, "toy") == "POSITIVE"
    release.remove(repository, "second")
    until(lambda: not running.state("second"))


def test_a_folder_that_cannot_be_read_is_named_once_and_others_are_followed(
    running: Supervised, repository: Path
) -> None:
    toy.write(repository, "garbled")
    (repository / "garbled" / CONFIG).write_text("nonsense")
    until(lambda: any("garbled is not followed" in line for line in running.told), lambda: running.told)
    toy.write(repository, "second")
    until(lambda: running.state("second").get("ready"), lambda: running.told)
    (repository / "toy" / CONFIG).write_text("nonsense")
    until(lambda: any("toy is not followed" in line for line in running.told), lambda: running.told)
    time.sleep(4)  # longer than a model must be missing
    assert label(running, "toy") == label(running, "second") == "POSITIVE"
    assert len([line for line in running.told if "is not followed" in line]) == 2


def test_nothing_is_switched_once_the_server_is_being_stopped(repository: Path) -> None:
    with on_free_ports(repository) as server:
        server.wait_ready()
        told: list[str] = []
        with Supervisor(server, told.append) as supervisor:
            with Rollouts(server, supervisor, told.append):
                slow = dedent(SLOW) + dedent(toy.TOKENIZER).partition("class TritonPythonModel:\n")[2]
                new = toy.write(repository, build=NEW, code={"tokenizer": slow})
                until(lambda: new.step("tokenizer").parent.name in server.remote.loaded())
            until(lambda: "READY" in server.remote._index()[new.step("tokenizer").parent.name])
            time.sleep(1)
            assert [model.build for model in server.models] == [OLD]
            config = server.remote._client.get_model_config("toy", as_json=True, headers=server.remote._headers)
            assert NEW not in str(config)
            assert told == []


def test_all_steps_of_a_removed_model_are_let_go(running: Supervised, repository: Path, tmp_path: Path) -> None:
    model = toy.write(tmp_path / "staging", "second")
    engine = model.repository / step_name("second", ENGINE_ROLE, model.build)
    (engine / VERSION).mkdir(parents=True)
    code = (model.step("encoder") / "model.py").read_text()
    (engine / VERSION / "model.py").write_text(code)
    config = (model.step("encoder").parent / CONFIG).read_text().replace("_encoder_", "_engine_")
    (engine / CONFIG).write_text(config)
    release.deploy(model, repository)
    until(lambda: running.state("second").get("ready"), lambda: running.told)
    assert engine.name in running.server.remote.loaded()
    release.remove(repository, "second")
    left = [f"second_{role}_{model.build}" for role in (*ROLES, ENGINE_ROLE)]
    until(lambda: not [each for each in step_processes(running.server.segments) if each.step in left])


def test_what_is_served_stays_whole_while_others_build(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    checkpoints = [make_checkpoint(tmp_path / str(seed), seed=seed) for seed in (1, 2, 3, 4)]
    served = quick_build(checkpoints[0], repository).model
    with on_free_ports(repository) as server:
        server.wait_ready()
        right = ask(server.grpc_url, "Hi", "model")
        for checkpoint in checkpoints[1:3]:
            quick_build(checkpoint, repository)
        assert served.damage(is_committed=False) == []
        server.relaunch()
        assert ask(server.grpc_url, "Hi", "model") == right
    quick_build(checkpoints[3], repository)
    assert not served.folder.exists()
    latest = committed(repository, "model")
    assert latest is not None
    assert latest.damage() == []
