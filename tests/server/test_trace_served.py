"""`tritext serve --trace` sends what OpenTelemetry's collectors take: a trace a request, with a span for each step."""

import http.client
import json
import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import toy
from collector import Collector, collector
from test_serve_command import COMMAND, FREE, finish, ready
from typer.testing import CliRunner

from tritext import access
from tritext.cli import app
from tritext.errors import ServeError
from tritext.naming import ROLES, step_name

KEY = "a-key-that-no-trace-shows"


def ask(http_url: str, request_id: str) -> str:
    tensor = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["Hi"]}
    body = json.dumps({"id": request_id, "inputs": [tensor]})
    with closing(http.client.HTTPConnection(http_url.removeprefix("http://"), timeout=60)) as connection:
        connection.request("POST", "/v2/models/toy/infer", body, {"Authorization": f"Bearer {KEY}"})
        return connection.getresponse().read().decode()


def trace(found: Collector, request_id: str) -> dict[str, dict[str, object]]:
    """The spans of one request by their names."""
    return {str(span["name"]): span for span in found.of_request(request_id, 4)}


def test_the_three_steps_of_a_request_are_spans_of_one_trace(tmp_path: Path) -> None:
    toy.write(tmp_path / "repository")
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    key_file.chmod(0o600)
    with collector() as found:
        options = ["--trace", found.url, "--trace-rate", "1", "--api-key-file", str(key_file), "--json"]
        process = subprocess.Popen(
            [*COMMAND, str(tmp_path / "repository"), *FREE, *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            url = ready(process)["http"]
            assert "POSITIVE" in ask(url, "first")
            assert "POSITIVE" in ask(url, "second")
            first, second = trace(found, "first"), trace(found, "second")
        finally:
            process.terminate()
            finish(process, within=60)
    steps = {step_name("toy", role, "0000abcd") for role in ROLES}
    assert set(first) == set(second) == {"toy", *steps}
    assert len({span["traceId"] for span in first.values()}) == 1
    assert first["toy"]["traceId"] != second["toy"]["traceId"]
    assert {first[step]["parentSpanId"] for step in steps} == {first["toy"]["spanId"]}
    times = [int(str(first[step_name("toy", role, "0000abcd")]["startTimeUnixNano"])) for role in ROLES]
    assert times == sorted(times)
    everything = b"".join(found.bodies).decode()
    assert "tritext" in everything
    assert KEY not in everything
    assert access.digest(KEY) not in everything


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:4318", "Give it as http://HOST:4318/v1/traces"),
        ("https://collector/v1/traces", "Triton sends OTLP over HTTP"),
        ("http://:4318", "Give it as"),
        ("http://host:port/", "Give it as"),
        ("http://me:secret@collector:4318", "has a password"),
    ],
)
def test_a_url_that_triton_cannot_send_to_is_refused(url: str, said: str, tmp_path: Path) -> None:
    toy.write(tmp_path)
    ran = CliRunner().invoke(app, ["serve", str(tmp_path), "--trace", url])
    assert isinstance(ran.exception, ServeError)
    assert said in str(ran.exception)
    assert "secret" not in str(ran.exception)


def test_a_triton_without_tracing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write(tmp_path / "repository")
    other = tmp_path / "bin" / "tritonserver"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho 'Usage: tritonserver [options]'\n")
    other.chmod(other.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", os.pathsep.join([str(other.parent), str(Path(sys.executable).parent), "/bin"]))
    ran = CliRunner().invoke(app, ["serve", str(tmp_path / "repository"), "--trace", "http://127.0.0.1:4318"])
    assert isinstance(ran.exception, ServeError)
    assert "was built without tracing. Leave --trace out." in str(ran.exception)
