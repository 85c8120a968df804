"""A healthy server on the embedded Triton: ready, right, closed where it should be, and gone when stopped."""

import contextlib
import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
import tritonclient.grpc as triton

from tritext.errors import RepositoryError, ServeError
from tritext.serve import Server, find
from tritext.serve.server import NICE
from tritext.serve.steps import step_processes


def on_free_ports(repository: Path, *models: str, host: str = "127.0.0.1") -> Server:
    return Server(repository, models=models or None, host=host, grpc_port=0, http_port=0, metrics_port=0)


def ask_grpc(url: str, text: str, model: str = "toy") -> str:
    with triton.InferenceServerClient(url) as client:
        tensor = triton.InferInput("TEXT", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text]], dtype=object))
        return str(client.infer(model, [tensor]).as_numpy("LABEL")[0, 0].decode())


def call(url: str, method: str, path: str, body: str = "", key: str | None = None) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)) as connection:
        connection.request(method, path, body, {"tritext-key": key} if key else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def ask_http(url: str, text: str, model: str = "toy") -> str:
    _, answer = call(url, "POST", f"/v2/models/{model}/generate", json.dumps({"TEXT": text}))
    return str(json.loads(answer)["LABEL"])


def segments(server: int) -> list[Path]:
    """The shared memory of tritonserver `server`."""
    maps = (Path("/proc") / str(server) / "maps").read_text()
    return sorted({Path(line.split()[-1]) for line in maps.splitlines() if "/tritext_" in line})


def survivors(memory: list[Path]) -> list[str]:
    """What is left of the server with that shared memory: its segments, and processes that name one of them."""
    prefix = memory[0].name.rpartition("_")[0]
    found = [path.name for path in memory if path.exists()]
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if prefix in (text := cmdline.read_text(errors="replace")):
                found.append(f"{cmdline.parent.name} {text}")
    return found


def steps(server: int) -> list[int]:
    """The stubs of tritonserver `server`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == server:
                found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Triton hands paths to a shell as they stand.
    folder = tmp_path_factory.mktemp("serve") / "a repo; touch pwned"
    toy.write(folder, "toy")
    toy.write(folder, "other")
    (folder / "notes").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with on_free_ports(repository) as running:
        running.wait_ready()
        yield running


def test_it_is_ready_within_four_seconds(repository: Path) -> None:
    def start() -> float:
        begun = time.monotonic()
        with on_free_ports(repository, "toy") as server:
            server.wait_ready()
            return time.monotonic() - begun

    # It takes 0.6 s; on a machine that others use, the best of some.
    assert any(start() < 4 for _ in range(4))


@pytest.mark.parametrize("model", ["toy", "other"])
def test_every_model_answers_over_grpc_and_http(server: Server, model: str) -> None:
    assert ask_grpc(server.grpc_url, "Hi", model) == "POSITIVE"
    assert ask_http(server.http_url, "Hi", model) == "POSITIVE"


def test_without_the_fence_callers_reach_triton_itself(repository: Path) -> None:
    with Server(repository, models=["toy"], grpc_port=0, http_port=0, metrics_port=0, grpc_fence=False) as server:
        server.wait_ready()
        port = server.grpc_url.rpartition(":")[2]
        assert f"--grpc-port={port}" in Path(f"/proc/{server.process.pid}/cmdline").read_text().split("\0")
        assert ask_grpc(server.grpc_url, "Hi") == "POSITIVE"
        assert server.stop() == 0


def test_the_metrics_can_be_read(server: Server) -> None:
    url, _, path = server.metrics_url.removeprefix("http://").partition("/")
    assert 'nv_inference_request_success{model="toy"' in call(url, "GET", f"/{path}")[1]


def test_the_curl_line_works_as_printed(server: Server) -> None:
    for model in server.models:
        line = server.curl(model)
        if shutil.which("curl"):
            shell = ["/bin/sh", "-c", line]
            printed = subprocess.run(shell, capture_output=True, check=True, timeout=30, text=True).stdout
        else:
            _, _, url, _, body = shlex.split(line)
            _, printed = call(server.http_url, "POST", url.removeprefix(server.http_url), body)
        assert json.loads(printed)["LABEL"] == "POSITIVE"


def test_every_engine_was_checked(server: Server) -> None:
    assert [(c.model, c.texts, c.of) for c in server.checked] == [("other", 5, 5), ("toy", 5, 5)]
    assert all(c.difference < c.tolerance == 1e-4 for c in server.checked)


def test_only_this_machine_can_connect(server: Server) -> None:
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    for url in (server.grpc_url, server.http_url, server.metrics_url.removesuffix("/metrics")):
        port = f"{int(url.rpartition(':')[2]):04X}"
        tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        sockets = [line.split()[1].split(":") for line in tables.splitlines() if line.split()[3] == "0A"]
        assert {address for address, number in sockets if number == port} <= loopback


CLOSED_HTTP = [
    ("GET", "v2/logging"),
    ("POST", "v2/logging"),
    ("GET", "v2/trace/setting"),
    ("GET", "v2/models/toy/trace/setting"),
    ("GET", "v2/models/stats"),
    ("GET", "v2/models/toy/stats"),
    ("POST", "v2/repository/index"),
    ("POST", "v2/repository/models/toy/load"),
    ("POST", "v2/repository/models/toy/unload"),
    ("GET", "v2/systemsharedmemory/status"),
    ("POST", "v2/systemsharedmemory/region/x/register"),
    ("GET", "v2/cudasharedmemory/status"),
]


@pytest.mark.parametrize(("method", "path"), CLOSED_HTTP)
@pytest.mark.parametrize("key", [None, "guess"])
def test_a_closed_endpoint_is_refused_over_http(server: Server, method: str, path: str, key: str | None) -> None:
    status, answer = call(server.http_url, method, f"/{path}", "{}" if method == "POST" else "", key)
    assert (status, "restricted" in answer) == (403, True)


CLOSED_GRPC: dict[str, tuple[Any, ...]] = {
    "get_log_settings": (),
    "update_log_settings": ({"log_info": False},),
    "get_trace_settings": (),
    "update_trace_settings": ("toy", {"trace_level": ["OFF"]}),
    "get_inference_statistics": (),
    "get_model_repository_index": (),
    "load_model": ("toy",),
    "unload_model": ("toy",),
    "get_system_shared_memory_status": (),
    "register_system_shared_memory": ("x", "/x", 8),
    "get_cuda_shared_memory_status": (),
}


@pytest.mark.parametrize("method", CLOSED_GRPC)
@pytest.mark.parametrize("key", [None, "guess"])
def test_a_closed_endpoint_is_refused_over_grpc(server: Server, method: str, key: str | None) -> None:
    headers = {"triton-grpc-protocol-tritext-key": key} if key else None
    with (
        triton.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(triton.InferenceServerException, match="restricted"),
    ):
        getattr(client, method)(*CLOSED_GRPC[method], headers=headers)


def test_the_key_opens_what_is_closed(server: Server) -> None:
    cmdline = (Path("/proc") / str(server.process.pid) / "cmdline").read_text().split("\0")
    key = next(argument for argument in cmdline if "--http-restricted-api" in argument).rpartition("=")[2]
    assert call(server.http_url, "GET", "/v2/logging", key=key)[0] == 200
    with triton.InferenceServerClient(server.grpc_url) as client:
        assert client.get_model_repository_index(headers={"triton-grpc-protocol-tritext-key": key}).models


def test_what_clients_need_is_open(server: Server) -> None:
    with triton.InferenceServerClient(server.grpc_url) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("toy")
        assert client.get_model_metadata("toy").name == "toy"
        assert client.get_model_config("toy").config.parameters["build"].string_value == "0000abcd"


def test_no_path_reaches_a_shell(server: Server, repository: Path) -> None:
    assert not (repository / "pwned").exists()


def test_each_step_has_its_own_small_memory(server: Server) -> None:
    pids = steps(server.process.pid)
    assert len(pids) == 6
    for pid in pids:
        rollup = (Path("/proc") / str(pid) / "smaps_rollup").read_text()
        private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
        assert private < 40_000, f"{private} kB"  # test_footprint.py has a real vocabulary
    assert {segment.stat().st_size for segment in segments(server.process.pid)} == {1 << 20}


def test_triton_and_its_steps_stand_back_for_the_fences(server: Server) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    steps = [process.pid for process in step_processes(server.segments)]
    assert len(steps) >= 3
    for pid in (server.process.pid, *steps):
        assert os.getpriority(os.PRIO_PROCESS, pid) == own + NICE


def test_a_chosen_model_is_served_alone_and_stop_leaves_nothing(repository: Path) -> None:
    server = on_free_ports(repository, "other")
    with server:
        server.wait_ready()
        memory = segments(server.process.pid)
        assert (len(steps(server.process.pid)), len(memory)) == (3, 3)
        with pytest.raises(triton.InferenceServerException, match="unknown model"):
            ask_grpc(server.grpc_url, "Hi", "toy")
        begun = time.monotonic()
    assert time.monotonic() - begun < 5
    assert server.stop() == 0
    assert survivors(memory) == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(server.grpc_url.rpartition(":")[2])), timeout=1)


def test_it_outlives_the_thread_that_started_it(repository: Path) -> None:
    # The kernel's death signal comes when the thread ends that forked, not only when the process does.
    server = on_free_ports(repository, "toy")
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        server.wait_ready()
        assert ask_grpc(server.grpc_url, "Hi") == "POSITIVE"
    finally:
        assert server.stop() == 0


def test_stop_lets_requests_in_flight_finish_and_refuses_new_ones(repository: Path) -> None:
    # Plain SIGTERM fails some of these: Triton 2.51 then refuses the later steps of an ensemble under way.
    server = on_free_ports(repository, "toy")
    with ThreadPoolExecutor() as pool, server:
        server.wait_ready()
        idle = http.client.HTTPConnection(server.http_url.removeprefix("http://"))
        idle.request("GET", "/v2/health/ready")
        idle.getresponse().read()  # kept alive: Triton alone would wait for it until its timeout
        asked: list[Future[str]] = []
        for _ in range(3):
            asked += [pool.submit(ask_grpc, server.grpc_url, "~" * 4), pool.submit(ask_http, server.http_url, "~" * 4)]
        time.sleep(0.3)
        stopping = pool.submit(server.stop)
        time.sleep(0.3)
        with pytest.raises(triton.InferenceServerException, match="no available versions"):
            ask_grpc(server.grpc_url, "too late")
        begun = time.monotonic()
        assert [future.result() for future in asked] == ["POSITIVE"] * 6
        assert stopping.result() == 0
        assert time.monotonic() - begun < 10
        idle.close()


def test_stop_lets_a_slow_caller_read_a_large_answer_to_its_end(tmp_path: Path) -> None:
    size = 30_000_000  # more than the kernel keeps for a connection
    some = 'b"NEGATIVE").astype(object)'
    large = toy.POSTPROCESS.replace(
        some, f'{some} if logits.max() > 0.2 else np.full_like(best, b"x" * {size}, object)'
    )
    toy.write(tmp_path, code={"postprocess": large})
    server = on_free_ports(tmp_path)
    with ThreadPoolExecutor() as pool, server:
        server.wait_ready()
        address = server.http_url.removeprefix("http://")
        with contextlib.closing(http.client.HTTPConnection(address, timeout=60)) as connection:
            connection.request("POST", "/v2/models/toy/generate", json.dumps({"TEXT": "Hi"}))
            answer = connection.getresponse()
            received = len(answer.read(1_000_000))
            stopping = pool.submit(server.stop)
            time.sleep(5)  # longer than Triton lingers
            received += len(answer.read())
            assert received > size  # chunked: one that is cut off raises
        assert stopping.result() == 0


def test_stop_cuts_off_what_takes_longer_than_the_grace(repository: Path) -> None:
    server = on_free_ports(repository, "toy")
    with ThreadPoolExecutor() as pool, server:
        server.wait_ready()
        asked = pool.submit(ask_grpc, server.grpc_url, "~" * 200)
        time.sleep(0.3)
        memory = segments(server.process.pid)
        begun = time.monotonic()
        assert server.stop(grace=0.5) == 1
        assert time.monotonic() - begun < 3
        assert survivors(memory) == []
        assert isinstance(asked.exception(), triton.InferenceServerException)


def test_a_tritonserver_on_path_gets_this_interpreter(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = find()
    script = tmp_path / "tritonserver"
    libraries = shlex.quote(embedded.environment["LD_LIBRARY_PATH"])
    command = shlex.join([str(embedded.executable), *embedded.arguments])
    script.write_text(f'#!/bin/bash\nexport LD_LIBRARY_PATH={libraries}\nexec {command} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")  # and no proxy is on the way to one's own child
    assert find().source == "PATH"
    with on_free_ports(repository, "toy") as server:
        server.wait_ready()
        assert server.checked


def test_ipv6(repository: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with on_free_ports(repository, "toy", host="::1") as server:
        server.wait_ready()
        assert ask_grpc(server.grpc_url, "Hi") == ask_http(server.http_url, "Hi") == "POSITIVE"


def test_a_port_in_use_is_named_with_its_flag(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(repository, grpc_port=0, http_port=port, metrics_port=0)
        with pytest.raises(ServeError, match=rf"^Port {port} on 127\.0\.0\.1 is in use, so --http-port"):
            server.start()
        assert server.stop() == 0


def test_an_unknown_model_is_refused_with_those_there_are(repository: Path) -> None:
    with pytest.raises(ServeError, match=r"has no model spam \(--model\)\. It has other, toy\."):
        Server(repository, models=["toy", "spam"])


def test_an_empty_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match=r"has no model\. `tritext build"):
        Server(tmp_path)


def test_a_record_that_cannot_be_read_is_refused_before_the_start(tmp_path: Path) -> None:
    (toy.write(tmp_path).folder / "manifest.json").write_text("{}")
    with pytest.raises(RepositoryError, match="Build the model again"):
        Server(tmp_path)
