"""`tritext serve` as a process: what it prints, how it stops, and that nothing survives it, however it ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import toy
from test_serve import ask_grpc, ask_http, segments, steps, survivors

COMMAND = [sys.executable, "-c", "from tritext.cli import main; main()", "serve"]
FREE = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", "--health-port", "0"]
# A stub that never comes up.
STUCK = """
    import time

    class TritonPythonModel:
        def initialize(self, args):
            time.sleep(60)
"""
FAILING = """
    class TritonPythonModel:
        def initialize(self, args):
            raise RuntimeError("the engine file is missing")
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    toy.write(folder, "toy")
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the command in an empty folder, with nothing in the environment that leads to the package."""
    running: list[subprocess.Popen[str]] = []

    def run(repository: Path, *options: str) -> "subprocess.Popen[str]":
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.Popen(
            [*COMMAND, str(repository), *FREE, *options],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def ready(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """The line that --json prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        pytest.fail(process.communicate(timeout=30)[1])
    endpoints = json.loads(line)
    assert isinstance(endpoints, dict)
    return endpoints


def left_after(seconds: float, memory: list[Path]) -> list[str]:
    """What is left of a server when it has had so long to go."""
    deadline = time.monotonic() + seconds
    while (found := survivors(memory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def finish(process: "subprocess.Popen[str]", within: float = 15) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=within)
    assert "Traceback" not in err
    return process.returncode, out, err


def test_it_prints_its_endpoints_and_a_curl_line(repository: Path, start: Start) -> None:
    process = start(repository)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]
    grpc, http_url = lines[0].split(), lines[1].split()
    assert (grpc[0], http_url[0], lines[2].split()[0], lines[3].split()[0]) == ("gRPC", "HTTP", "Metrics", "Ready")
    with urllib.request.urlopen(lines[3].split()[1], timeout=10) as answer:  # noqa: S310 - our own server
        assert json.load(answer)["ready"]
    assert lines[5].startswith(f"curl -s {http_url[1]}/v2/models/toy/generate -d ")
    assert ask_grpc(grpc[1], "Hi") == ask_http(http_url[1], "Hi") == "POSITIVE"
    process.send_signal(signal.SIGHUP)
    code, out, err = finish(process)
    assert (code, out) == (0, "")
    assert "Ready in" in err
    assert "toy: 5 of 5 reference texts asked" in err
    assert re.search(r"Stopping; .*\nStopped\.\n$", err)
    assert "CUDA" not in err  # what Triton says at every start without a GPU is no warning


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_lets_requests_finish(repository: Path, start: Start, number: int) -> None:
    process = start(repository, "--json")
    endpoints = ready(process)
    memory = segments(endpoints["pid"])
    assert os.getpgid(endpoints["pid"]) != os.getpgid(process.pid)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(ask_grpc, endpoints["grpc"], "~" * 5), pool.submit(ask_http, endpoints["http"], "~" * 5)]
        time.sleep(0.3)
        os.killpg(process.pid, number)  # as a terminal's Ctrl-C does
        assert [future.result(timeout=20) for future in asked] == ["POSITIVE", "POSITIVE"]
    assert finish(process)[0] == 0
    assert survivors(memory) == []


def test_a_second_signal_ends_it_at_once(repository: Path, start: Start) -> None:
    process = start(repository, "--json")
    endpoints = ready(process)
    memory = segments(endpoints["pid"])
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask_grpc, endpoints["grpc"], "~" * 200)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        code, _, err = finish(process, within=5)
        assert asked.exception(timeout=5)
    assert code == 1
    assert "were cut off" in err
    assert survivors(memory) == []


def test_nothing_is_left_when_it_is_killed(repository: Path, start: Start) -> None:
    process = start(repository, "--json")
    endpoints = ready(process)
    memory = segments(endpoints["pid"])
    idle = http.client.HTTPConnection(endpoints["http"].removeprefix("http://"))
    idle.request("GET", "/v2/health/ready")
    idle.getresponse().read()
    assert (len(steps(endpoints["pid"])), len(memory)) == (3, 3)
    process.kill()
    assert left_after(15, memory) == []
    idle.close()


def test_nothing_is_left_when_it_is_killed_together_with_triton(repository: Path, start: Start) -> None:
    process = start(repository, "--json")
    endpoints = ready(process)
    memory = segments(endpoints["pid"])
    os.kill(endpoints["pid"], signal.SIGSTOP)  # so that neither can react to the other's end
    process.kill()
    os.kill(endpoints["pid"], signal.SIGKILL)
    assert left_after(5, memory) == []


def test_nothing_is_left_when_it_is_killed_while_a_step_is_stuck(tmp_path: Path, start: Start) -> None:
    # Triton would wait for this step for ever, and the step, which never lets go of Python's lock, would not notice.
    toy.write(tmp_path / "repo", tildes="if tildes: re.match('(a+)+$', 'a' * 60 + 'b')")
    process = start(tmp_path / "repo", "--json")
    endpoints = ready(process)
    memory = segments(endpoints["pid"])
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask_grpc, endpoints["grpc"], "~")
        time.sleep(0.5)
        process.kill()
        assert left_after(15, memory) == []
        assert asked.exception(timeout=5)


def test_triton_killed_is_said_and_started_again(repository: Path, start: Start) -> None:
    process = start(repository, "--json")
    endpoints = ready(process)
    memory = segments(endpoints["pid"])
    assert process.stderr is not None
    os.kill(endpoints["pid"], signal.SIGKILL)
    said = []
    for line in iter(process.stderr.readline, ""):
        said.append(line)
        if "answers again" in line:
            break
    assert any("Triton ended by itself (killed by signal 9). It is started again." in line for line in said)
    assert survivors(memory) == []
    assert ask_grpc(endpoints["grpc"], "Hi") == ask_http(endpoints["http"], "Hi") == "POSITIVE"
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 0


def test_triton_that_cannot_be_started_again_is_an_error(tmp_path: Path, start: Start) -> None:
    model = toy.write(tmp_path / "repo")
    process = start(tmp_path / "repo", "--json")
    endpoints = ready(process)
    memory = segments(endpoints["pid"])
    (model.step("encoder") / "model.py").unlink()
    os.kill(endpoints["pid"], signal.SIGKILL)
    code, _, err = finish(process, within=60)
    assert code == 1
    assert "model.py" in err.splitlines()[-1]
    assert survivors(memory) == []


def test_a_signal_during_the_start_stops_it_at_once(tmp_path: Path, start: Start) -> None:
    toy.write(tmp_path / "repo", code={"encoder": STUCK})
    process = start(tmp_path / "repo", "--json", "--log-level", "info")
    assert process.stderr is not None
    line = next(line for line in process.stderr if "loading: toy_encoder" in line)
    pid = int(line.split()[2])
    time.sleep(0.3)
    memory = segments(pid)
    process.send_signal(signal.SIGTERM)
    assert finish(process, within=3)[:2] == (0, "")
    assert survivors(memory) == []


def test_a_model_that_takes_too_long_is_named(tmp_path: Path, start: Start) -> None:
    toy.write(tmp_path / "repo", code={"encoder": STUCK})
    code, out, err = finish(start(tmp_path / "repo", "--timeout", "1.5"))
    assert (code, out) == (1, "")
    assert re.search(r"error: Triton was not ready within 1.5 s; toy_encoder_0000abcd\S* .*still loading", err)


def test_a_model_that_fails_is_named_with_its_reason(tmp_path: Path, start: Start) -> None:
    toy.write(tmp_path / "repo", code={"encoder": FAILING})
    code, out, err = finish(start(tmp_path / "repo", "--log-level", "error"))
    assert (code, out) == (1, "")
    reason = "A model cannot be loaded: toy_encoder_0000abcd: RuntimeError: the engine file is missing."
    assert f"error: {reason}\nThe last lines of its log:\n  " in err


def test_a_step_without_code_is_named_instead_of_waited_for(tmp_path: Path, start: Start) -> None:
    model = toy.write(tmp_path / "repo")
    (model.step("encoder") / "model.py").unlink()  # Triton 2.51 would wait for ever
    code, _, err = finish(start(tmp_path / "repo"))
    assert code == 1
    assert "toy is not as it was built: toy_encoder_0000abcd/1/model.py in " in err


def test_a_model_that_does_not_answer_is_named(tmp_path: Path, start: Start) -> None:
    toy.write(tmp_path / "repo", code={"encoder": toy.encoder(tildes="raise ValueError('no such op')")})
    code, out, err = finish(start(tmp_path / "repo"))
    assert (code, out) == (1, "")
    assert "error: toy answers with an error: [StatusCode.INTERNAL]" in err
    assert "no such op" in err


def test_an_engine_that_is_wrong_here_is_refused(tmp_path: Path, start: Start) -> None:
    toy.write(tmp_path / "repo", bias=0.25)
    code, out, err = finish(start(tmp_path / "repo"))
    assert (code, out) == (1, "")
    assert "Model toy (build 0000abcd, toy fp32) is wrong on this machine: for the text 'Hi' its logits" in err
    assert "differ by 0.25 from the checkpoint's, and the tolerance is 0.0001. Build it again" in err


def test_a_port_in_use_is_an_error(repository: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = finish(start(repository, "--grpc-port", str(port)))
    assert (code, err.partition(".")[0]) == (1, "error: Port " + f"{port} on 127")
    assert "so --grpc-port cannot have it" in err
