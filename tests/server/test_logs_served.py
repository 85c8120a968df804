"""What a server writes about its requests, with a real model: JSON, request ids, the access log."""

import json
import re
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import pytest
from test_serve_command import COMMAND, FREE, finish, ready

from building import make_checkpoint, quick_build, record_anew
from tritext import Client
from tritext.errors import InvalidInput, ServerFault
from tritext.repository import committed


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    quick_build(make_checkpoint(folder / "checkpoint"), folder / "repository", "texts")
    return folder / "repository"


@pytest.fixture
def breakable(repository: Path, tmp_path: Path) -> Path:
    """A model whose postprocess step fails on requests for three labels."""
    copy = Path(shutil.copytree(repository, tmp_path / "repository"))
    (code,) = copy.glob("texts_postprocess_*/1/model.py")
    code.write_text(
        code.read_text() + "\n_process = TritonPythonModel.stage.process\n"
        "def broken(self, requests):\n"
        "    if any(request.parameters.get('top_k') == 3 for request in requests):\n"
        "        raise ValueError('the third label')\n"
        "    return _process(self, requests)\n"
        "TritonPythonModel.stage.process = broken\n"
    )
    model = committed(copy, "texts")
    assert model is not None
    record_anew(model)
    return copy


def served(repository: Path, *options: str, log: int | IO[str] = subprocess.PIPE) -> "subprocess.Popen[str]":
    line = [*COMMAND, str(repository), *FREE, "--json", *options]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True)


def records(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """Every line that it wrote, once it is stopped."""
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    return parsed(err)


def parsed(log: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "source"} <= set(record) for record in found)
    return found


def test_every_line_is_json_and_an_error_names_step_and_request(breakable: Path) -> None:
    process = served(breakable, "--log-format", "json", "--log-level", "info", "--access-log")
    with Client(ready(process)["grpc"]) as client:
        client.classify("texts", ["one", "two three"], top_k=2)
        with pytest.raises(ServerFault) as failed:
            client.classify("texts", ["one"], top_k=3)
        with pytest.raises(InvalidInput):
            client.classify("texts", ["one"], top_k=0)
    time.sleep(0.2)
    found = records(process)
    named = re.search(r"under request id (\w+-\d)", str(failed.value))
    assert named is not None
    (error,) = [record for record in found if record["level"] == "error"]
    assert error["source"].startswith("texts_postprocess_")
    assert error["request_id"] == named[1]
    assert "ValueError: the third label" in error["message"]
    messages = [record.get("message", "") for record in found if record["source"] == "tritext"]
    assert any(message.startswith("Ready in") for message in messages)
    assert messages[-1] == "Stopped."
    assert any("Started GRPCInferenceService" in record.get("message", "") for record in found)
    good, bad, refused = [record for record in found if record["source"] == "access" and "request_id" in record]
    assert (good["model"], good["texts"], good["tokens"] > 4, 0 < good["seconds"] < 60) == ("texts", 2, True, True)
    assert (bad["request_id"], bad["error"], bad["texts"]) == (named[1], "StageFault", 1)
    assert refused["error"] == "InvalidInput"


def test_many_errors_and_many_access_lines_leave_one_another_whole(breakable: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        process = served(breakable, "--log-format", "json", "--access-log", log=log)
    address = ready(process)["grpc"]

    def fail(count: int) -> list[str]:
        said = []
        with Client(address) as client:
            for _ in range(count):
                with pytest.raises(ServerFault) as failed:
                    client.classify("texts", ["one"], top_k=3)
                said.append(str(failed.value))
        return said

    with ThreadPoolExecutor(8) as threads:
        said = [each for each_said in threads.map(fail, [40] * 8) for each in each_said]
    time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=60)
    found = parsed((tmp_path / "log").read_text())
    errors = [record for record in found if record["level"] == "error"]
    assert {record["source"].rpartition("_")[0] for record in errors} == {"texts_postprocess"}
    failures = [record["request_id"] for record in found if record["source"] == "access" and "error" in record]
    assert len(said) == len(set(failures)) == len(failures) == len(errors)
    assert {record["request_id"] for record in errors} == set(failures)


def test_no_request_is_logged_unless_asked(repository: Path) -> None:
    process = served(repository, "--log-format", "json")
    with Client(ready(process)["grpc"]) as client:
        client.classify("texts", ["one"])
    assert "access" not in {record["source"] for record in records(process)}


def test_a_failing_start_is_json_too(repository: Path) -> None:
    process = served(repository, "--log-format", "json", "--host", "203.0.113.1")
    code, _, err = finish(process, within=60)
    assert code == 1
    (record,) = [json.loads(line) for line in err.splitlines()]
    assert (record["level"], "is not an address of this machine" in record["message"]) == ("error", True)
