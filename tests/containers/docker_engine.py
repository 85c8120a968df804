"""A Docker engine by its own command line: what the tests say is what a user types."""

import http.client
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# As README and compose.yaml tell everybody to run it, but for a health check that tests need not wait for.
HARDENED = (
    "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--shm-size=256m",
    "--health-interval=1s", "--health-retries=2",
)  # fmt: skip


@cache
def client() -> str | None:
    """The first docker on PATH that can build with BuildKit: as a part of it, or by the plugin that newer ones need."""
    folders = (*os.environ["PATH"].split(os.pathsep), "/usr/bin")
    for path in (found for folder in folders if (found := shutil.which("docker", path=folder))):
        said = subprocess.run([path, "version", "--format", "{{.Client.Version}}"], capture_output=True, text=True)  # noqa: PLW1510
        has_plugin = subprocess.run([path, "buildx", "version"], capture_output=True, check=False).returncode == 0
        if has_plugin or said.stdout.partition(".")[0] in {"18", "19", "20"}:
            return path
    return None


def run(*arguments: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """``docker ARGUMENTS``, whatever its end; BuildKit builds."""
    line = [client() or "docker", *map(str, arguments)]
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False, env=environment)


def docker(*arguments: object, timeout: float = 60) -> str:
    """What ``docker ARGUMENTS`` prints; fails with what it complains about."""
    done = run(*arguments, timeout=timeout)
    assert done.returncode == 0, f"docker {' '.join(map(str, arguments))}\n{done.stdout[-2000:]}{done.stderr[-6000:]}"
    return done.stdout.strip()


def inspect(thing: str) -> Any:
    """What the engine knows of an image or a container."""
    return json.loads(docker("inspect", thing))[0]


def until(holds: Callable[[], bool], what: Callable[[], str], seconds: float = 60) -> None:
    """Wait until `holds`; fails with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


class Container:
    """A running container."""

    def __init__(self, identity: str) -> None:
        self.id = identity

    @property
    def state(self) -> Any:
        """Status, Health, ExitCode, OOMKilled and so on."""
        return inspect(self.id)["State"]

    def address(self, port: int) -> str:
        """Where this machine reaches `port`. It changes with a restart."""
        return docker("port", self.id, port).splitlines()[0]

    def logs(self) -> str:
        """Everything written to both streams."""
        done = run("logs", self.id)
        return done.stdout + done.stderr

    def exec(self, *command: object) -> subprocess.CompletedProcess[str]:
        """Run `command` inside, as the image's own user."""
        return run("exec", self.id, *command)

    def sh(self, script: str) -> str:
        """What a shell script prints inside, both streams."""
        done = self.exec("sh", "-c", script)
        return (done.stdout + done.stderr).strip()

    def wait_healthy(self, wanted: str = "healthy", seconds: float = 60) -> None:
        """Wait for what the health check says; fails with its output and the log."""

        def told() -> str:
            return f"still {self.state['Health']}, not {wanted}\n{self.logs()[-4000:]}"

        until(lambda: self.state["Health"]["Status"] == wanted, told, seconds)

    def wait_ended(self, seconds: float = 60) -> int:
        """Wait for its end and return its exit code."""
        return int(docker("wait", self.id, timeout=seconds))

    def http(self, method: str, path: str, body: Any = None, port: int = 8000, **headers: str) -> tuple[int, str]:
        """Status and text of one HTTP request."""
        data = None if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address(port), timeout=60)
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metrics(self) -> str:
        """Prometheus' text."""
        with urllib.request.urlopen(f"http://{self.address(8002)}/metrics", timeout=30) as answer:
            return str(answer.read().decode())


@contextmanager
def container(image: str, *command: str, options: tuple[str, ...] = (), **mounts: Path) -> Iterator[Container]:
    """A container of `image`, hardened, its ports published on this machine alone, gone afterwards."""
    publish = [f"--publish=127.0.0.1::{port}" for port in (8000, 8001, 8002, 8003)]
    volumes = [f"--volume={path}:/{name}:ro" for name, path in mounts.items()]
    started = Container(docker("run", "--detach", *HARDENED, *publish, *volumes, *options, image, *command))
    try:
        yield started
    finally:
        docker("rm", "--force", "--volumes", started.id)
