"""Which of TensorRT's Python bindings an image gets: those of the library that its base has."""

import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "deploy" / "image" / "tensorrt-bindings"


def asked(root: Path) -> subprocess.CompletedProcess[str]:
    """What the script says of a base whose files are below `root`."""
    return subprocess.run([SCRIPT, root], capture_output=True, text=True, check=False)


def test_the_bindings_are_of_the_library_and_cuda_of_the_base(tmp_path: Path) -> None:
    libraries = tmp_path / "usr" / "lib" / "x86_64-linux-gnu"
    libraries.mkdir(parents=True)
    for name in ("libnvinfer.so", "libnvinfer.so.10", "libnvinfer.so.10.13.3", "libnvinfer_plugin.so.10.13.3"):
        (libraries / name).touch()
    for name in ("cuda", "cuda-13", "cuda-13.0"):
        (tmp_path / "usr" / "local" / name).mkdir(parents=True)
    assert asked(tmp_path).stdout == "tensorrt-cu13-bindings==10.13.3.*\n"


def test_a_base_without_the_library_is_told_what_to_say(tmp_path: Path) -> None:
    done = asked(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "--build-arg TENSORRT_BINDINGS=" in done.stderr
