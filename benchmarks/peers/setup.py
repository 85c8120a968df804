"""Install the peers, each in a virtual environment under .peers/.

    python -m benchmarks.peers.setup [NAME...]

One environment a file of ``requirements/``, which pin every package; peers share one where their versions agree. An
environment that was made from the same file stays as it is. About 3 GB in all, with PyTorch's build for CPUs; where
an index offers you the build with CUDA and you want the small one, set PIP_EXTRA_INDEX_URL to PyTorch's CPU index.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

REQUIREMENTS: Final = Path(__file__).parent / "requirements"
ENVIRONMENTS: Final = Path(__file__).resolve().parents[2] / ".peers"
_STAMP: Final = "requirements.sha256"


def names() -> list[str]:
    """The environments there are."""
    return sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


def python(name: str) -> Path:
    """The interpreter of an environment."""
    return ENVIRONMENTS / name / "bin" / "python"


def requirements(name: str) -> dict[str, str]:
    """Package and exact version, as the environment's file pins them; ValueError names a line that pins none."""
    pins = {}
    for line in (REQUIREMENTS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        package, pin, version = line.partition("==")
        if not (package and pin and version):
            raise ValueError(f"requirements/{name}.txt: {line!r} is not PACKAGE==VERSION")
        pins[package] = version
    return pins


def is_ready(name: str) -> bool:
    """Whether the environment was made from its file as it is now."""
    stamp = ENVIRONMENTS / name / _STAMP
    return stamp.is_file() and stamp.read_text(encoding="ascii") == _digest(name)


def install(name: str) -> None:
    """Make the environment unless it is ready; SystemExit where pip fails."""
    if is_ready(name):
        print(f"{name}: ready")
        return
    folder = ENVIRONMENTS / name
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{name}: installing {len(requirements(name))} packages", flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [str(python(name)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*command, "--requirement", str(REQUIREMENTS / f"{name}.txt")], check=False).returncode:
        raise SystemExit(f"pip could not install requirements/{name}.txt; its reason stands above.")
    (folder / _STAMP).write_text(_digest(name), encoding="ascii")


def _digest(name: str) -> str:
    return hashlib.sha256((REQUIREMENTS / f"{name}.txt").read_bytes()).hexdigest()


if __name__ == "__main__":
    chosen = sys.argv[1:] or names()
    if unknown := set(chosen) - set(names()):
        raise SystemExit(f"There is no environment {min(unknown)}; there are {', '.join(names())}.")
    for each in chosen:
        install(each)
