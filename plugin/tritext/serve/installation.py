"""Where tritonserver is, and the environment in which its Python steps find this very interpreter."""

import atexit
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from tritext.errors import ServeError

NGC: Final = Path("/opt/tritonserver/bin/tritonserver")
STUB: Final = "triton_python_backend_stub"
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
SYSTEM_LIBRARIES: Final = "/usr/lib"
# Triton puts the backend's folder into a `bash -c` line as it stands.
SAFE_PATH: Final = re.compile(r"[A-Za-z0-9_./@%+=:,-]+")


@dataclass(frozen=True)
class Installation:
    """A tritonserver: what to execute, the arguments it cannot do without, its whole environment."""

    executable: Path
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    source: str  # "PATH", "NGC image" or "embedded"


def find() -> Installation:
    """The tritonserver on PATH, else NVIDIA's image's, else the one embedded in nvidia-pytriton.

    ServeError where there is none, or where the embedded one cannot run, with what to install.
    """
    environment = _environment()
    if not shutil.which("bash"):
        raise ServeError("There is no bash on PATH. Triton starts its Python steps through it: install bash.")
    if on_path := shutil.which("tritonserver"):
        return Installation(Path(on_path), (), environment, "PATH")
    if NGC.is_file():
        return Installation(NGC, (), environment, "NGC image")
    return _embedded(environment)


def _environment() -> dict[str, str]:
    """Ours, with this interpreter first on PATH: a stub runs, and so imports from, the first ``python3`` there."""
    folder = Path(sys.executable).parent  # not resolved: a virtual environment is where its link lies
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PATH"))))
    # numpy's BLAS would start a thread per core in every step, and no step multiplies matrices with it.
    return {"OPENBLAS_NUM_THREADS": "1", **os.environ, "PATH": path}


def _embedded(environment: dict[str, str]) -> Installation:
    spec = importlib.util.find_spec("pytriton")
    package = Path(spec.origin).parent if spec and spec.origin else None
    if package is None or not (package / "tritonserver").is_dir():
        raise ServeError(
            f"There is no tritonserver: not on PATH, not at {NGC}, and the embedded one is not installed. "
            'Install it with `pip install "tritext[serve]"`, or run in NVIDIA\'s Triton image.'
        )
    root = package / "tritonserver"
    stub = _stub(root)
    libraries = (str(package.parent / "nvidia_pytriton.libs"), str(_libpython()), environment.get("LD_LIBRARY_PATH"))
    environment = {**environment, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries))}
    _try_stub(stub, environment)
    backends = _backends(root, stub)
    arguments = (f"--backend-directory={backends}", f"--cache-directory={root / 'caches'}")
    return Installation(root / "bin" / "tritonserver", arguments, environment, "embedded")


def _stub(root: Path) -> Path:
    stubs = root / "python_backend_stubs"
    stub = stubs / PYTHON / STUB
    if not stub.is_file():
        there = ", ".join(sorted(p.name for p in stubs.glob("3.*")))
        raise ServeError(
            f"The embedded Triton has no Python backend for Python {PYTHON}, only for {there}. "
            "Make the virtual environment with Python 3.11 or 3.12."
        )
    return stub


def _libpython() -> Path:
    """The folder of the shared libpython, which the stubs load."""
    name = f"libpython{PYTHON}.so.1.0"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    roots = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib", SYSTEM_LIBRARIES]
    for root in filter(None, roots):
        for folder in (Path(root), Path(root) / multiarch):
            if (folder / name).is_file():
                return folder
    raise ServeError(
        f"This Python ({sys.executable}) has no shared {name}, which Triton's Python steps load. Install it "
        f"(Debian and Ubuntu: `apt-get install libpython{PYTHON}`), or use a Python built with --enable-shared."
    )


def _try_stub(stub: Path, environment: Mapping[str, str]) -> None:
    """Run the stub without arguments, which it answers with status 1.

    One that lacks a library would leave Triton waiting for ever, after taking all but the owner's
    execute permission off the file.
    """
    done = subprocess.run([stub], env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 1:
        raise ServeError(f"Triton's Python backend cannot run here: {done.stderr.strip() or done.returncode}.")


def _backends(root: Path, stub: Path) -> Path:
    """A backend folder in which the stub of this Python lies beside the backend, made of links into the wheel.

    Its name follows from what it links to, so every start shares it and nothing has to clean it up.
    """
    wanted = [*(root / "backends" / "python").glob("*.*"), stub]
    name = "backends-" + sha256("\n".join(map(str, wanted)).encode()).hexdigest()[:16]
    for parent in _places():
        folder = parent / name
        if not SAFE_PATH.fullmatch(str(folder)):
            continue
        try:
            (folder / "python").mkdir(parents=True, exist_ok=True)
            for target in wanted:
                _link(folder / "python" / target.name, target)
        except OSError:
            continue
        return folder
    raise ServeError(
        "There is no folder for a few links to Triton's Python backend. Set XDG_CACHE_HOME to a writable "
        "folder whose path has no spaces."
    )


def _places() -> Iterator[Path]:
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    yield Path(cache) / "tritext"
    try:
        last = Path(tempfile.mkdtemp(prefix="tritext-"))
    except OSError:
        return
    atexit.register(shutil.rmtree, last, ignore_errors=True)
    yield last


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    new = link.with_name(f".{link.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)
