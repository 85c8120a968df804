"""A real server under requests that nobody should send: it stays, and nobody else's answer changes."""

import http.client
import json
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import toy
from tritonclient.grpc.service_pb2 import ModelInferRequest

from benchmarks.reliability.company import Caller, Refusal
from benchmarks.reliability.fuzz import fuzz, send_http
from benchmarks.reliability.hostile import good, post
from benchmarks.reliability.inputs import Judge, run
from benchmarks.reliability.requests import Asked, packed, request
from building import make_checkpoint, quick_build
from tritext.naming import step_name
from tritext.serve import Server

NAMES = ("texts", "tokens")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("fuzz")
    for name, head in zip(NAMES, ("single", "tokens"), strict=True):
        quick_build(make_checkpoint(folder / name, head), folder / "repository", name)
    ports = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
    with Server(folder / "repository", **ports, latency_goal=60, log=lambda _: None) as started:
        started.wait_ready()
        yield started


def test_the_server_withstands_it_and_good_traffic_does_not_notice(server: Server) -> None:
    report = fuzz(server, "texts", 500, seed=1)
    assert report.wrong == []
    assert report.good > 10
    assert sum(report.answers.values()) == 500


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"TEXT":' + b"[" * 100_000 + b"]" * 100_000 + b"}", (), "400"),  # ended Triton 2.51
        (b'{"TEXT":' + b"[" * 100_000 + b"]" * 100_000 + b"}", ("Inference-Header-Content-Length: 0",), "400"),
        (b"1\r\na\r\n" * 1_000_000 + b"0\r\n\r\n", ("Transfer-Encoding: chunked",), "413"),  # likewise
        (b"\x1f\x8b", ("Content-Encoding: gzip",), "415"),  # a megabyte took a gigabyte
        (b"{}", (f"Content-Length: {10**12}",), "413"),
        (b"{}", ("Content-Length: 2", "Transfer-Encoding: chunked"), "400"),
        (b"{}", ("X: " + "a" * 100_000,), "431"),
    ],
    ids=["deep", "deep beyond what is said to be JSON", "chunks", "compressed", "large", "two lengths", "headers"],
)
@pytest.mark.parametrize("end", ["generate", "infer"])
def test_what_triton_cannot_stand_does_not_reach_it(
    server: Server, body: bytes, headers: tuple[str, ...], status: str, end: str
) -> None:
    pid = server.process.pid
    assert send_http(server.http_url, post(f"/v2/models/texts/{end}", body, *headers)) == status
    assert send_http(server.http_url, good("texts")) == "200"
    assert server.process.poll() is None
    assert server.process.pid == pid


def test_whoever_reads_metrics_sends_nothing(server: Server) -> None:
    url = server.metrics_url.removesuffix("/metrics")
    assert send_http(url, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") == "200"
    assert send_http(url, post("/metrics", b"1\r\na\r\n" * 10_000, "Transfer-Encoding: chunked")) == "413"


def test_what_http_allows_goes_through(server: Server) -> None:
    host = server.http_url.removeprefix("http://")
    brackets = json.dumps({"TEXT": "[{" * 1000 + '\\"'}).encode()  # nested in a string is not nested
    found = []
    with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
        for body in (b'{"TEXT": "a"}', brackets, iter([b'{"TEXT"', b': "a"}'])):  # the last one comes in chunks
            headers = {} if isinstance(body, bytes) else {"Transfer-Encoding": "chunked"}
            connection.request("POST", "/v2/models/texts/generate", body, headers, encode_chunked=bool(headers))
            response = connection.getresponse()
            found.append((response.status, json.loads(response.read())["COUNT"]))
    assert found == [(200, 1)] * 3


def test_an_id_that_is_no_text_is_no_traceback(server: Server) -> None:
    host = server.http_url.removeprefix("http://")
    inputs = b'[{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["a"]}]'
    with closing(http.client.HTTPConnection(host, timeout=30)) as connection:
        connection.request("POST", "/v2/models/texts/infer", b'{"id": "\xff\xfe", "inputs": %s}' % inputs)
        answer = connection.getresponse().read()
    assert b"Traceback" not in answer
    assert b".py" not in answer
    assert send_http(server.http_url, good("texts")) == "200"


def test_a_text_whose_length_lies_is_refused_alone(server: Server) -> None:
    """The Python backend would refuse all that it is batched with."""
    lying = request("texts", ["a"])
    lying.raw_input_contents[0] = struct.pack("<I", 1 << 20) + packed(["hello"])
    bad, fine = Asked(lying), Asked(request("texts", ["hello"]))
    with Caller(server.grpc_url) as caller:
        for _ in range(5):
            answers = caller.ask([fine, bad, *[fine] * 8] * 6, together=True)
            refused = [index for index, answer in enumerate(answers) if isinstance(answer, Refusal)]
            assert refused == list(range(1, 60, 10))


@pytest.mark.parametrize("shape", [(1, 20_000), (1, 0), (2, 129)])
def test_a_step_refuses_what_its_tokenizer_never_sends(server: Server, shape: tuple[int, int]) -> None:
    build = next(model.build for model in server.models if model.name == "texts")
    asked = ModelInferRequest(model_name=step_name("texts", "encoder", build))
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        asked.inputs.add(name=name, datatype="INT32", shape=shape)
        asked.raw_input_contents.append(np.ones(shape, np.int32).tobytes())
    with Caller(server.grpc_url) as caller:
        [answer] = caller.ask([Asked(asked)], together=True)
    assert isinstance(answer, Refusal)
    assert answer.code == "INVALID_ARGUMENT"
    assert "Send texts to the model itself" in answer.sentence


@pytest.mark.parametrize("name", NAMES)
def test_nobodys_answer_depends_on_who_else_is_there(server: Server, name: str) -> None:
    model = next(model for model in server.models if model.name == name)
    with Caller(server.grpc_url) as caller:
        judge = Judge(caller, server.remote.infer, model, moved=1e-4)
        run(judge, model, inputs=1500, seed=1, longest=500)
    found = judge.found
    assert found.good >= 1500
    assert found.bad >= 30
    assert set(found.refusals) == {"INVALID_ARGUMENT"}
    assert found.comparison.worst <= 1e-4  # of the largest, in fp32
    print(f"{found.comparison.bit_equal} of {found.comparison.rows} rows equal to the bit, {found.ties}")


def test_the_key_is_not_in_the_log(tmp_path: Path) -> None:
    lines: list[str] = []
    toy.write(tmp_path)
    with Server(tmp_path, grpc_port=0, http_port=0, metrics_port=0, log_level="debug", log=lines.append) as started:
        started.wait_ready()
        command = Path(f"/proc/{started.process.pid}/cmdline").read_text()
        key = command.partition("tritext-key=")[2].partition("\0")[0]
        send_http(started.http_url, post("/v2/repository/index", b"{}", "tritext-key: no"))
        send_http(started.http_url, post("/v2/repository/index", b"{}", f"tritext-key: {key}"))
    assert len(key) > 20
    assert len(lines) > 50
    assert [line for line in lines if key in line] == []
