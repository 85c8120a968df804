"""What somebody who got inside, or reaches the ports, can do: seen from there."""

import pytest
import tritonclient.grpc as triton
from docker_engine import Container, docker, inspect, run

CLOSED = [
    ("GET", "/v2/models/stats"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/labels/unload"),
    ("POST", "/v2/systemsharedmemory/region/x/register"),
]


def test_nobody_inside_is_root_or_can_become_it(server: Container) -> None:
    assert server.sh("id -u; id -g") == "10001\n10001"
    script = "grep -h -E '^(Uid|CapEff|NoNewPrivs)' /proc/[0-9]*/status | tr '\t' ' ' | sort -u"
    assert server.sh(script).splitlines() == [
        "CapEff: 0000000000000000",
        "NoNewPrivs: 1",
        "Uid: 10001 10001 10001 10001",
    ]


@pytest.mark.parametrize("folder", ["/", "/etc", "/opt/tritext/bin", "/usr/local/bin", "/repository"])
def test_not_even_root_could_write(server: Container, folder: str) -> None:
    done = run("exec", "--user=0", server.id, "touch", f"{folder}/x")
    assert "Read-only file system" in done.stderr


def test_what_can_be_written_lies_in_memory(server: Container) -> None:
    found = server.sh("touch /tmp/x /dev/shm/x && rm /tmp/x /dev/shm/x; df --output=fstype /tmp /dev/shm | sort -u")
    assert found.splitlines() == ["Type", "tmpfs"]


@pytest.mark.parametrize("tool", ["pip", "gcc", "cc", "make", "git", "curl", "wget"])
def test_no_tool_is_left_to_build_or_fetch_with(server: Container, tool: str) -> None:
    assert server.exec("which", tool).returncode != 0


@pytest.mark.parametrize("module", ["torch", "transformers", "pip", "hatchling"])
def test_no_package_is_there_that_only_builds_need(server: Container, module: str) -> None:
    done = server.exec("python3", "-c", f"import {module}")
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize("key", [None, "guess"])
def test_management_is_refused_without_the_key(server: Container, method: str, path: str, key: str | None) -> None:
    headers = {"tritext-key": key} if key else {}
    status, answer = server.http(method, path, {} if method == "POST" else None, **headers)
    assert (status, "restricted" in answer) == (403, True)


def test_management_is_refused_over_grpc_too(server: Container) -> None:
    with triton.InferenceServerClient(server.address(8001)) as client:
        for refused in (lambda: client.unload_model("labels"), client.get_model_repository_index):
            with pytest.raises(triton.InferenceServerException, match="restricted"):
                refused()
        assert client.is_model_ready("labels")


def test_no_secret_of_the_build_is_in_the_image(image: str, server: Container) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "mount=type=secret" not in history  # those layers belong to stages that are not in it
    environment = "\n".join(inspect(image)["Config"]["Env"])
    assert "PIP" not in environment
    assert "CERT" not in environment
    assert server.sh("ls -A /run/secrets /usr/local/share/ca-certificates 2>/dev/null | grep -v :") == ""
