"""The wheel: all that is needed is in it, nothing else is, and it builds a model where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tritext.repository import committed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from an sdist, as whoever packages it would."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def files(folder: str) -> set[str]:
    return {
        str(path.relative_to(ROOT / folder))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_package_and_its_data_are_in_it(names: set[str]) -> None:
    assert {f"tritext/{name}" for name in files("plugin/tritext")} <= names
    assert {"tritext/py.typed", "tritext/build/texts.json"} <= names


@pytest.mark.parametrize("folder", ["models", "ensembles"])
def test_the_templates_are_in_it(names: set[str], folder: str) -> None:
    there = {name for name in names if name.startswith(f"tritext/templates/{folder}/")}
    assert there == {f"tritext/templates/{folder}/{name}" for name in files(folder)}
    assert there


def test_nothing_else_is_in_it(names: set[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in names} == {"tritext"}
    assert not [name for name in names if "test" in name or "__pycache__" in name or name.endswith(".pyc")]
    info = {name.split("/", 1)[1] for name in names if ".dist-info/" in name}
    assert info == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_the_sdist_holds_what_a_build_needs(wheel: Path) -> None:
    (archive,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        there = {name.split("/", 1)[1] for name in tar.getnames() if "/" in name}
    needed = {"pyproject.toml", "LICENSE", "README.md", "models/tokenizer/config.pbtxt"}
    assert needed <= there
    assert not [name for name in there if name.startswith((".venv", ".demo", ".git/"))]


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it, which takes all else from this one, but not its links."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    # A folder that a .pth file names has its own .pth files left alone: the checkout is not found through it.
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    (Path(packages) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def run(elsewhere: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    line = [elsewhere / "bin" / str(command[0]), *map(str, command[1:])]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, cwd=elsewhere.parent, env=environment, timeout=180
    )


def test_the_checkout_is_not_there(elsewhere: Path) -> None:
    program = "import tritext, tritext.build.config as c; print(tritext.__file__, c.templates())"
    done = run(elsewhere, "python", "-c", program)
    assert done.returncode == 0, done.stderr
    package, templates = done.stdout.split()
    assert Path(package).is_relative_to(elsewhere)
    assert Path(templates) == Path(package).parent / "templates"


def test_a_model_is_built_from_it(elsewhere: Path, checkpoint: Path) -> None:
    done = run(
        elsewhere,
        "tritext",
        "build",
        checkpoint,
        "--name",
        "spam",
        "--out",
        "models",
        "--engine",
        "onnxruntime",
        "--precision",
        "fp32",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Built spam. Serve it with: tritext serve models\n"
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    model = committed(elsewhere.parent / "models", "spam")
    assert model is not None
    assert model.damage() == []
    assert model.manifest().parity["texts"] > 40
