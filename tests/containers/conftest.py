"""One image and one server for all tests that leave it as it was."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import images
import pytest
from docker_engine import Container, client, container, run

REQUIRED = "TRITEXT_REQUIRE_CONTAINERS"  # environment: 1 makes a failure of what is a skip elsewhere


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test builds the image, and the base where there is none."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(600))


def _lacking(what: str) -> None:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{what} {REQUIRED}=1 asks for these tests.")
    pytest.skip(what)


@pytest.fixture(scope="session")
def base() -> str:
    """The base image, on an engine that answers."""
    if client() is None:
        _lacking("No docker command that can build with BuildKit is on PATH.")
    if (answer := run("version", "--format", "{{.Server.Version}}")).returncode:
        _lacking(f"No Docker engine answers: {answer.stderr.strip()}")
    try:
        return images.base()
    except images.NoBase as error:
        _lacking(str(error))
        raise


@pytest.fixture(scope="session")
def image(base: str) -> str:
    """The `cpu` image of this checkout."""
    return images.build("cpu", base)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A classifier, its successor with other weights, and one that finds entities."""
    from building import make_checkpoint  # imports torch, which a skip need not wait for

    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "labels": make_checkpoint(folder / "labels", "single"),
        "next": make_checkpoint(folder / "next", "single", seed=1),
        "entities": make_checkpoint(folder / "entities", "tokens"),
    }


@pytest.fixture(scope="session")
def repository(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models. Others may read it, as the image's user is one of them."""
    from building import quick_build

    folder = tmp_path_factory.mktemp("repository")
    for name in ("labels", "entities"):
        quick_build(checkpoints[name], folder, name)
    folder.chmod(0o755)
    return folder


@pytest.fixture
def own_repository(repository: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(repository, tmp_path / "repository"))


@pytest.fixture(scope="session")
def server(image: str, repository: Path) -> Iterator[Container]:
    """Both models served; no test changes or stops it."""
    with container(image, repository=repository) as started:
        started.wait_healthy()
        yield started
