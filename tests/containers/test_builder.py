"""The builder image builds a model that the serving image serves; a package index of one's own comes in as a secret."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import images
import pytest
import served
from docker_engine import container, docker


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def index(base: str) -> Iterator[str]:
    """A page of wheels with the small torch where this machine has it: the other comes with gigabytes of CUDA."""
    version = docker("run", "--rm", base, "python3", "-c", "import sys; print(*sys.version_info[:2], sep='')")
    folders = [Path(folder) for folder in os.environ.get("PIP_FIND_LINKS", "").split()]
    folder = next((folder for folder in folders if any(folder.glob(f"torch-*+cpu-cp{version}-*.whl"))), None)
    if folder is None:
        pytest.skip(f"PIP_FIND_LINKS names no folder with a CPU build of torch for Python {version}.")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def builder(image: str, base: str, index: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The `builder` image."""
    config = tmp_path_factory.mktemp("pip") / "pip.conf"
    config.write_text(f"[install]\nfind-links = {index}\n")
    return images.build("builder", base, arguments=[f"--secret=id=pip,src={config}"])


def test_what_it_builds_is_served(builder: str, image: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for path in checkpoints["labels"].iterdir():
        path.chmod(0o644)
    mounts = [f"--volume={checkpoints['labels']}:/checkpoint:ro", f"--volume={tmp_path}:/repository"]
    command = ["build", "/checkpoint", "--name", "labels", "--out", "/repository", "--engine", "onnxruntime"]
    hardened = ["--read-only", "--tmpfs=/tmp", "--network=none"]
    docker("run", "--rm", *hardened, *mounts, builder, *command, "--precision=fp32", timeout=240)
    with container(image, repository=tmp_path) as started:
        started.wait_healthy()
        assert served.labels(started.address(8001)) == served.expected_labels(checkpoints["labels"])


def test_the_secret_index_is_not_in_it(builder: str, index: str) -> None:
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", builder)
    assert index not in history
    script = f"grep -rl {index} /etc /opt/tritext/bin /run /root 2>/dev/null; ls -A /run/secrets 2>/dev/null; true"
    assert docker("run", "--rm", "--user=0", "--entrypoint=sh", builder, "-c", script) == ""
