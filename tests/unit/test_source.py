"""Finding a checkpoint: a directory, or the hub, with the hub mocked at its HTTP edge only."""

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from building import quick_build
from fake_hub import COMMIT, FakeHub, serving
from tritext.build.source import Source, locate
from tritext.errors import CheckpointError

NAME = "someone/some-model"
OFFLINE = (
    f"{NAME} is neither a directory here nor downloaded already, and HF_HUB_OFFLINE is set. Give the path of a local "
    "copy, or unset it."
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    huggingface_hub.close_session()


@pytest.fixture
def files(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint as it lies on the hub, with what is of no use here."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "files"))
    for other in ("README.md", "tf_model.h5", "onnx/model.onnx", "onnx/config.json", "old/model.safetensors"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_text("{}")
    return folder


@pytest.fixture
def hub(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving(FakeHub({NAME: files})) as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
    huggingface_hub.close_session()


def refused(name: str, revision: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        locate(name, revision)
    return str(caught.value)


def out_of_reach(reason: str) -> str:
    return f"{NAME} is not a directory here, and the hub cannot be asked for it ({reason}"


# --- directories -------------------------------------------------------------------------------------------------


def test_a_directory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = locate(str(checkpoint))
    assert source == Source(str(checkpoint), checkpoint.resolve(), None)
    monkeypatch.chdir(checkpoint.parent)
    assert locate("checkpoint").folder == checkpoint.resolve()
    monkeypatch.chdir(checkpoint)
    assert locate(".").title == "checkpoint"


def test_a_directory_in_the_home(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert locate("~/checkpoint").folder == checkpoint.resolve()


def test_a_directory_has_no_revision(checkpoint: Path) -> None:
    assert refused(str(checkpoint), "main").endswith("is a directory, which has no revisions. Leave --revision out.")


@pytest.mark.parametrize("path", ["/no/where", "./no-where", "../no-where", "~/no-where", "a/b/c", "/etc/passwd"])
def test_a_path_where_nothing_is(path: str, hub: FakeHub) -> None:
    assert refused(path) == f"{path} is not a directory."
    assert hub.asked == []


def test_hashes_change_with_the_files_that_matter(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    before = locate(str(folder)).hashes()
    assert set(before) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    (folder / "README.md").write_text("x")
    (folder / ".hidden.json").write_text("{}")
    assert locate(str(folder)).hashes() == before
    (folder / "vocab.txt").write_text("x")
    (folder / "pytorch_model.bin").write_text("x")
    assert set(locate(str(folder)).hashes()) - set(before) == {"vocab.txt", "pytorch_model.bin"}


# --- the hub -----------------------------------------------------------------------------------------------------


def test_a_model_from_the_hub_is_built(hub: FakeHub, tmp_path: Path) -> None:
    source = locate(NAME)
    assert (source.name, source.title, source.revision) == (NAME, NAME, COMMIT)
    assert hub.downloaded() == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    with mock.patch("building.locate", return_value=source):
        manifest = quick_build(Path(NAME), tmp_path / "repository").manifest
    assert (manifest.checkpoint["source"], manifest.checkpoint["revision"]) == (NAME, COMMIT)


@pytest.mark.parametrize("revision", ["v1", COMMIT])
def test_a_revision(hub: FakeHub, revision: str) -> None:
    hub.revisions = ("v1", *hub.revisions)
    assert locate(NAME, revision).revision == COMMIT


def test_weights_in_a_pickle_where_there_are_no_others(hub: FakeHub, files: Path) -> None:
    torch.save(AutoModelForSequenceClassification.from_pretrained(files).state_dict(), files / "pytorch_model.bin")
    assert "pytorch_model.bin" not in {path.name for path in locate(NAME).folder.iterdir()}
    hub.repositories = {"other/name": files}
    (files / "model.safetensors").unlink()
    assert (locate("other/name").folder / "pytorch_model.bin").exists()


def test_what_was_downloaded_is_there_without_a_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    online = locate(NAME)
    asked = len(hub.asked)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert locate(NAME) == online
    assert len(hub.asked) == asked


def test_an_unknown_repository(hub: FakeHub) -> None:
    assert refused("nobody/nothing") == (
        "nobody/nothing is neither a directory here nor a model on the hub (or it is private: `hf auth login`)."
    )
    assert refused("nothing") == (
        "nothing is neither a directory here nor a model on the hub (or it is private: `hf auth login`)."
    )


def test_an_unknown_revision(hub: FakeHub) -> None:
    assert refused(NAME, "v9") == f"{NAME} has no revision 'v9' on the hub."


@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
def test_a_gated_repository(hub: FakeHub, where: str) -> None:
    hub.refusals[where] = (403, "GatedRepo")
    assert refused(NAME) == f"{NAME} is gated on the hub: ask for access there, then run `hf auth login`."


@pytest.mark.parametrize("name", ["some one/x", "-x", "x--y", "a/b.git", "no where"])
def test_what_cannot_be_a_hub_id(hub: FakeHub, name: str) -> None:
    assert refused(name) == f"{name} is neither a directory here nor a valid hub id."
    assert hub.asked == []


def test_a_hub_that_is_broken(hub: FakeHub) -> None:
    hub.refusals["/api/"] = (500, "")
    assert out_of_reach("Server error '500 Internal Server Error'") in refused(NAME)


def test_a_page_that_asks_to_log_in(hub: FakeHub) -> None:
    hub.refusals["/api/"] = (200, "")
    assert out_of_reach("") in refused(NAME)


# --- no network --------------------------------------------------------------------------------------------------


def test_offline_by_choice(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    assert refused(NAME) == OFFLINE
    assert time.monotonic() - started < 2
    assert hub.asked == []


def test_nobody_at_the_hubs_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        started = time.monotonic()
        assert out_of_reach("[Errno 111] Connection refused). Give the path of a local copy, or") in refused(NAME)
        assert time.monotonic() - started < 5


def test_no_name_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "https://hub.invalid")
    started = time.monotonic()
    assert out_of_reach("[Errno -") in refused(NAME)
    assert time.monotonic() - started < 10
