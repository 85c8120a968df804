"""Who has the key is answered, over gRPC and HTTP alike; nobody else is, and the key is shown nowhere."""

import asyncio
import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from test_serve import steps
from typer.testing import CliRunner

from building import make_checkpoint, quick_build
from certificates import Authority
from tritext import AsyncClient, Client, access
from tritext.cli import app
from tritext.errors import AccessDenied, ClientError, ServeError
from tritext.naming import ROLES, step_name
from tritext.repository import BuiltModel, models
from tritext.serve import Server
from tritext.serve.protection import Protection

KEYS = ("4d4b5be8f2b34a0d9e52", "the-key-before-this-one")
WRONG = "0000000000000000000000"
TEXT = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["one"]}
INFER = ("/v2/models/texts/infer", {"inputs": [TEXT]})
GENERATE = "/v2/models/texts/generate"


@dataclass
class Served:
    server: Server
    model: BuiltModel
    key_file: Path
    log: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two keys, as verbose as it can be."""
    folder = tmp_path_factory.mktemp("access")
    key_file = folder / "keys"
    key_file.write_text("\n".join(KEYS) + "\n")
    key_file.chmod(0o600)
    repository = folder / "repository"
    quick_build(make_checkpoint(folder / "checkpoint"), repository, "texts")
    log: list[str] = []
    server = Server(
        repository, grpc_port=0, http_port=0, metrics_port=0, log_level="debug", log=log.append,
        protection=Protection.load(api_key_file=key_file), arguments=["--log-verbose=9"],
    )  # fmt: skip
    with server:
        server.wait_ready()
        yield Served(server, models(repository)[0], key_file, log)


def post(served: Served, path: str, body: object, **headers: str) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(served.server.http_url.removeprefix("http://"), timeout=60)) as connection:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize("key", KEYS, ids=["first", "second"])
def test_each_key_of_the_file_is_good(served: Served, key: str) -> None:
    with Client(served.server.grpc_url, api_key=key) as client:
        assert len(client.classify("texts", ["one", "two"])) == 2
    for name in ("authorization", "Authorization"):
        status, answer = post(served, *INFER, **{name: f"Bearer {key}"})
        assert (status, key in answer) == (200, False)
    flat = {
        "TEXT": "one",
        "id": "mine",
        "authorization": f"Bearer {key}",
    }  # Triton does not pass on the headers of these
    status, answer = post(served, GENERATE, flat)
    assert (status, key in answer) == (200, False)


@pytest.mark.parametrize("key", [None, WRONG, KEYS[0][:-1], KEYS[0] + "x"], ids=["none", "wrong", "short", "long"])
def test_nobody_else_is_answered(served: Served, key: str | None) -> None:
    with Client(served.server.grpc_url, api_key=key) as client, pytest.raises(AccessDenied, match="api_key=") as error:
        client.classify("texts", ["one"])
    assert key is None or key not in str(error.value)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    for path, body in (INFER, (GENERATE, {"TEXT": "one", **headers})):
        status, answer = post(served, path, body, **headers)
        assert (status, access.REFUSAL in answer) == (400, True)


# The names keep the keys out of pytest's own variable in the environment, where a test below looks for them.
@pytest.mark.parametrize(
    "value",
    [KEYS[0], f"Basic {KEYS[0]}", "Bearer", "", access.digest(KEYS[0])],
    ids=["bare", "basic", "scheme", "empty", "digest"],
)
def test_what_is_no_bearer_token_is_no_key(served: Served, value: str) -> None:
    status, answer = post(served, *INFER, Authorization=value)
    assert (status, access.REFUSAL in answer) == (400, True)


def test_the_asynchronous_client_sends_it_too(served: Served) -> None:
    async def ask() -> int:
        async with AsyncClient(served.server.grpc_url, api_key=KEYS[0]) as client:
            return len(await client.classify("texts", ["one"]))

    assert asyncio.run(ask()) == 1


@pytest.mark.parametrize("role", ROLES)
def test_no_step_answers_by_its_own_name(served: Served, role: str) -> None:
    step = step_name("texts", role, served.model.build)
    with triton.InferenceServerClient(served.server.grpc_url) as client:
        inputs = []
        for tensor in client.get_model_metadata(step).inputs:
            kind = {"BYTES": np.object_, "FP32": np.float32, "INT32": np.int32}[tensor.datatype]
            width = next((size for size in tensor.shape[1:] if size > 0), 4)
            array = np.array([[b"one"]], kind) if tensor.datatype == "BYTES" else np.ones((1, width), kind)
            inputs.append(triton.InferInput(tensor.name, array.shape, tensor.datatype))
            inputs[-1].set_data_from_numpy(array)
        with pytest.raises(triton.InferenceServerException, match=access.REFUSAL):
            client.infer(step, [each for each in inputs if each.name() != "TEXT_PAIR"])


def test_commands_take_the_key_from_a_file_or_the_environment(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ["classify", "texts", "one", "--url", served.server.grpc_url, "--json"]
    with_file = ["--api-key-file", str(served.key_file)]
    assert CliRunner().invoke(app, [*ask, *with_file]).exit_code == 0
    health = ["health", str(served.model.repository), "--url", served.server.grpc_url]
    assert isinstance(CliRunner().invoke(app, health).exception, ServeError)
    assert CliRunner().invoke(app, [*health, *with_file]).exit_code == 0
    over_http = ["health", str(served.model.repository), "--url", served.server.http_url]
    assert CliRunner().invoke(app, [*over_http, *with_file]).exit_code == 0
    assert isinstance(CliRunner().invoke(app, ask).exception, ClientError)
    load = ["bench", "texts", "--url", served.server.grpc_url, "--metrics-url", served.server.metrics_url]
    short = ["--concurrency", "2", "--requests", "20", "--texts", "8", "--warmup", "0", "--json"]
    benched = CliRunner().invoke(app, [*load, *short, *with_file])
    assert json.loads(benched.stdout)["results"][0]["requests_per_second"] > 0
    monkeypatch.setenv(access.KEY, KEYS[1])
    assert CliRunner().invoke(app, ask).exit_code == 0


def test_the_key_is_shown_nowhere(served: Served) -> None:
    with Client(served.server.grpc_url, api_key=KEYS[0]) as client:
        answer = client._stub.ModelInfer.with_call(
            request_for("one"), metadata=[("authorization", f"Bearer {KEYS[0]}")]
        )
    post(served, "/v2/models/texts/infer", {"inputs": []}, Authorization=f"Bearer {KEYS[0]}")
    said = [repr(answer), "\n".join(served.log), *map(seen_by_others, processes(served))]
    assert any("GRPC" in line or "grpc" in line for line in served.log)
    for text in said:
        assert not any(secret in text for secret in (*KEYS, WRONG, served.server.protection.own_key))
    environments = [Path(f"/proc/{pid}/environ").read_text() for pid in processes(served)]
    assert not any(key in environment for key in KEYS for environment in environments)
    assert access.digest(KEYS[0]) in environments[0]


def processes(served: Served) -> list[int]:
    pid = served.server.process.pid
    return [pid, *steps(pid)]


def seen_by_others(pid: int) -> str:
    """What any user of the machine reads of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def request_for(text: str) -> object:
    from tritext.client.batching import Batcher
    from tritext.client.codec import RequestEncoder

    return RequestEncoder("texts", {}).encode(next(Batcher(1).split([text])))


def test_the_line_for_the_shell_takes_the_key_from_there(served: Served) -> None:
    environment = {**os.environ, access.KEY: KEYS[0]}
    line = served.server.curl(served.model)
    done = subprocess.run(
        ["/bin/bash", "-c", line], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert "LABEL" in json.loads(done.stdout)


def test_commands_send_the_key_over_tls(served: Served, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("local", san="DNS:localhost")
    files = {"api_key_file": served.key_file, "tls_cert": pair.certificate, "tls_key": pair.key}
    repository = served.model.repository
    with Server(repository, grpc_port=0, http_port=0, metrics_port=0, protection=Protection.load(**files)) as server:
        server.wait_ready()
        url = ["--url", f"localhost:{server.grpc_url.rpartition(':')[2]}"]
        secure = ["--api-key-file", str(served.key_file), "--tls-ca", str(authority.own.certificate)]
        asked = CliRunner().invoke(app, ["classify", "texts", "one", "--json", *url, *secure])
        assert "labels" in json.loads(asked.stdout)
        load = ["bench", "texts", "--metrics-url", server.metrics_url, "--texts", "8", "--warmup", "0", "--json"]
        benched = CliRunner().invoke(app, [*load, "--concurrency", "2", "--requests", "20", *url, *secure])
        assert json.loads(benched.stdout)["results"][0]["requests_per_second"] > 0
        health = ["health", str(repository), "--url", server.grpc_url, "--tls-cert", str(pair.certificate)]
        assert CliRunner().invoke(app, [*health, *secure[:2]]).exit_code == 0


def test_a_key_of_the_environment_does_not_reach_the_steps(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(access.KEY, KEYS[0])
    monkeypatch.setenv(access.DIGESTS, access.digest(KEYS[0]))  # as if one server had started another
    with Server(served.model.repository, grpc_port=0, http_port=0, metrics_port=0) as server:
        server.wait_ready()
        environment = Path(f"/proc/{server.process.pid}/environ").read_text()
        assert KEYS[0] not in environment
        with Client(server.grpc_url) as client:
            assert client.classify("texts", ["one"])
    assert os.environ[access.KEY] == KEYS[0]
