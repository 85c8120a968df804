"""What several tests need; what takes seconds to make is shared, and not written to."""

import shutil
import time
from pathlib import Path

import pytest

from clocks import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What `time.monotonic` tells instead of the time."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT for text classification with four labels."""
    return _made(tmp_path_factory, "single")


@pytest.fixture(scope="session")
def token_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT for token classification."""
    return _made(tmp_path_factory, "tokens")


def _made(factory: pytest.TempPathFactory, head: str) -> Path:
    import torch  # seconds, which the tests of the client should not pay
    import transformers

    from building import make_checkpoint

    torch.set_num_threads(1)  # for tiny models a second thread costs more than it does
    transformers.utils.logging.disable_progress_bar()
    return make_checkpoint(factory.mktemp(head) / "checkpoint", head)


@pytest.fixture(scope="session")
def repository(checkpoint: Path, token_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the models "texts" and "tokens"."""
    from building import quick_build

    folder = tmp_path_factory.mktemp("built") / "repository"
    quick_build(checkpoint, folder, "texts")
    quick_build(token_checkpoint, folder, "tokens")
    return folder


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """`repository`, to be changed."""
    return Path(shutil.copytree(repository, tmp_path / "copy"))
