"""Too little shared memory: said at the start, with what to do; while serving, who needs more gets an error."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import toy

COMMAND = [sys.executable, "-c", "from tritext.cli import main; main()", "serve"]
FREE = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]


# In a shared memory of its own, which somebody else fills, and frees again.
FILLED = """
    import contextlib, json, os, sys
    from pathlib import Path

    import numpy as np
    import toy
    import tritonclient.grpc as triton
    from supervised import supervised

    def said(url, model, size):
        with triton.InferenceServerClient(url) as client:
            tensor = triton.InferInput("TEXT", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[b"x" * size]], dtype=object))
            try:
                return client.infer(model, [tensor], client_timeout=30).as_numpy("LABEL")[0, 0].decode()
            except triton.InferenceServerException as error:
                return error.status()

    repository, filler = Path(sys.argv[1]), Path("/dev/shm/filler")
    with supervised(repository) as running:
        url = running.server.grpc_url
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass
        full = [said(url, model, size) for size in (5, 500_000, 5) for model in ("toy", "other")]
        is_ready = running.supervisor.status.is_ready
        filler.unlink()
        freed = [said(url, model, size) for size in (5, 500_000) for model in ("toy", "other")]
        print(json.dumps([full, is_ready, freed]))
"""


@pytest.fixture
def mounted() -> Callable[[str], list[str]]:
    """What to put in front of a command, so that it has so much shared memory, and nobody else's."""

    def command(size: str) -> list[str]:
        return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "-"]

    if subprocess.run([*command("2m"), "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    return command


def test_a_small_shared_memory_is_named(tmp_path: Path, mounted: Callable[[str], list[str]]) -> None:
    toy.write(tmp_path / "repo")
    ran = subprocess.run(
        [*mounted("2m"), *COMMAND, str(tmp_path / "repo"), *FREE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    assert "error: A model cannot be loaded: toy_" in ran.stderr
    assert "--shm-size" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_shared_memory_that_fills_up_harms_only_who_needs_more(
    tmp_path: Path, mounted: Callable[[str], list[str]]
) -> None:
    toy.write(tmp_path / "repo")
    toy.write(tmp_path / "repo", "other")
    command = [*mounted("64m"), sys.executable, "-c", dedent(FILLED), str(tmp_path / "repo")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    full, is_ready, freed = json.loads(ran.stdout)
    small, large = ["POSITIVE"] * 2, ["StatusCode.INTERNAL"] * 2
    assert full == [*small, *large, *small]
    assert is_ready
    assert freed == [*small, *small]
