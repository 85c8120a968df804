"""`tritext health` tells a server that answers from one that only says it is ready."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
import toy
from test_serve import steps
from typer.testing import CliRunner

from tritext.cli import app
from tritext.errors import ServeError
from tritext.serve import Server


def test_every_model_is_asked_and_a_dead_step_is_noticed(tmp_path: Path) -> None:
    toy.write(tmp_path, "one")
    toy.write(tmp_path, "two")
    with Server(tmp_path, grpc_port=0, http_port=0, metrics_port=0) as server:
        server.wait_ready()
        command = ["health", str(tmp_path), "--url", server.grpc_url]
        ran = CliRunner().invoke(app, [*command, "--json"])
        assert ran.exit_code == 0
        assert set(json.loads(ran.stdout)) == {"one", "two"}
        stubs = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in steps(server.process.pid)}
        victim = next(pid for pid, command_line in stubs.items() if "two_encoder" in command_line)
        os.kill(victim, signal.SIGKILL)
        ran = CliRunner().invoke(app, command)
        assert isinstance(ran.exception, ServeError)
        assert "two answers with an error" in str(ran.exception)
        assert "one: " in ran.stdout
        ran = CliRunner().invoke(app, [*command, "--model", "one"])
        assert ran.exit_code == 0


def test_nobody_there_is_no_health(tmp_path: Path) -> None:
    toy.write(tmp_path, "one")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = CliRunner().invoke(app, ["health", str(tmp_path), "--url", url, "--timeout", "1"])
    assert isinstance(ran.exception, ServeError)


@pytest.mark.parametrize("option", [["--model", "three"], ["--timeout", "0"]])
def test_bad_options_are_refused(option: list[str], tmp_path: Path) -> None:
    toy.write(tmp_path, "one")
    ran = CliRunner().invoke(app, ["health", str(tmp_path), *option])
    assert ran.exit_code != 0
