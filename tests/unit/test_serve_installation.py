"""Which tritonserver is used, in which environment, and what is said where there is none."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from tritext.errors import ServeError
from tritext.serve import installation
from tritext.serve.installation import STUB, find


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No NGC image, a cache of our own, and a PATH with bash and nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(installation, "NGC", tmp_path / "ngc" / "tritonserver")


def executable(path: Path, text: str = "#!/bin/sh\nexit 1\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_one_on_path_comes_first(tmp_path: Path) -> None:
    server = executable(tmp_path / "bin" / "tritonserver")
    executable(tmp_path / "ngc" / "tritonserver")
    found = find()
    assert (found.executable, found.arguments, found.source) == (server, (), "PATH")
    assert "LD_LIBRARY_PATH" not in found.environment or "nvidia_pytriton" not in found.environment["LD_LIBRARY_PATH"]


def test_then_the_one_of_the_image(tmp_path: Path) -> None:
    server = executable(tmp_path / "ngc" / "tritonserver")
    found = find()
    assert (found.executable, found.arguments, found.source) == (server, (), "NGC image")


def test_then_the_embedded_one(tmp_path: Path) -> None:
    found = find()
    assert found.source == "embedded"
    assert os.access(found.executable, os.X_OK)
    backends = Path(found.arguments[0].partition("=")[2])
    assert backends.is_relative_to(tmp_path / "cache" / "tritext")
    assert {STUB, "libtriton_python.so", "triton_python_backend_utils.py"} == {
        entry.name for entry in (backends / "python").iterdir()
    }
    assert (backends / "python" / STUB).resolve().parent.name == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_every_start_shares_the_backend_folder_and_mends_it() -> None:
    first = Path(find().arguments[0].partition("=")[2])
    stub = first / "python" / STUB
    target = stub.readlink()
    stub.unlink()
    stub.symlink_to("/nowhere")
    assert Path(find().arguments[0].partition("=")[2]) == first
    assert stub.readlink() == target
    assert len(list(first.parent.iterdir())) == 1


@pytest.mark.parametrize("cache", ["with a space", "file"])
def test_a_cache_that_cannot_be_used_is_not(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / cache))
    backends = Path(find().arguments[0].partition("=")[2])
    assert not backends.is_relative_to(tmp_path / cache)
    assert (backends / "python" / STUB).is_file()


def test_without_any_folder_it_is_said_which_to_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: str) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.mkdtemp", missing)
    with pytest.raises(ServeError, match="Set XDG_CACHE_HOME to a writable folder"):
        find()


@pytest.mark.parametrize("source", ["PATH", "embedded"])
def test_the_first_python_on_path_is_this_one(source: str, tmp_path: Path) -> None:
    if source == "PATH":
        executable(tmp_path / "bin" / "tritonserver")
    found = find()
    assert found.source == source
    assert found.environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert found.environment["PATH"].split(os.pathsep)[-1] == str(tmp_path / "bin")
    assert found.environment["OPENBLAS_NUM_THREADS"] == "1"


def test_the_users_environment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/mine")
    environment = find().environment
    assert environment["OPENBLAS_NUM_THREADS"] == "3"
    assert environment["LD_LIBRARY_PATH"].endswith(":/mine")


def fake_wheel(root: Path, monkeypatch: pytest.MonkeyPatch, stub: str | None, python: str | None = None) -> None:
    package = root / "site" / "pytriton"
    (package / "tritonserver" / "backends" / "python").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    version = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    if stub is not None:
        executable(package / "tritonserver" / "python_backend_stubs" / version / STUB, stub)
    monkeypatch.setattr(sys, "path", [str(root / "site")])
    monkeypatch.delitem(sys.modules, "pytriton", raising=False)


def test_without_any_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ServeError, match=r'not on PATH, not at .*pip install "tritext\[serve\]"'):
        find()


def test_a_python_without_a_stub_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_wheel(tmp_path, monkeypatch, "", python="3.8")
    with pytest.raises(ServeError, match=r"no Python backend for Python 3\.1\d, only for 3\.8\. .*3\.11 or 3\.12"):
        find()


def test_a_stub_that_cannot_run_is_seen_before_triton_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_wheel(tmp_path, monkeypatch, "#!/bin/sh\necho 'libcudart.so: cannot open' >&2\nexit 127\n")
    with pytest.raises(ServeError, match=r"cannot run here: libcudart\.so: cannot open\."):
        find()


def without_libpython(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], str | None]:
    values = {"LIBDIR": str(tmp_path / "lib"), "MULTIARCH": "x86_64-linux-gnu"}
    monkeypatch.setattr(sysconfig, "get_config_var", values.get)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    monkeypatch.setattr(installation, "SYSTEM_LIBRARIES", str(tmp_path / "usr"))
    return values.get


def test_a_python_without_libpython_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_libpython(monkeypatch, tmp_path)
    with pytest.raises(ServeError, match=r"no shared libpython3\.1\d\.so\.1\.0.*apt-get install libpython3\.1\d"):
        find()


@pytest.mark.parametrize("folder", ["lib", "lib/x86_64-linux-gnu", "usr/x86_64-linux-gnu"])
def test_libpython_is_found_where_distributions_put_it(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_libpython(monkeypatch, tmp_path)
    library = tmp_path / folder / f"libpython{installation.PYTHON}.so.1.0"
    library.parent.mkdir(parents=True)
    library.write_text("")
    assert installation._libpython() == library.parent


def test_without_bash_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServeError, match="install bash"):
        find()


def test_the_package_of_the_wheel_is_not_imported() -> None:
    code = "import sys; from tritext.serve import find; find(); sys.exit('pytriton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
