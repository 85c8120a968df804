"""Too little shared memory: said at the start, with what to do, and nothing is left."""

import subprocess
import sys
from pathlib import Path

import pytest
import toy

COMMAND = [sys.executable, "-c", "from tritext.cli import main; main()", "serve"]
FREE = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]


def test_a_small_shared_memory_is_named(tmp_path: Path) -> None:
    toy.write(tmp_path / "repo")
    mounted = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"', "-"]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    ran = subprocess.run(
        [*mounted, *COMMAND, str(tmp_path / "repo"), *FREE], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 1
    assert "error: A model cannot be loaded: toy_" in ran.stderr
    assert "--shm-size" in ran.stderr
    assert "Traceback" not in ran.stderr
