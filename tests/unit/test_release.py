"""What is committed changes without a build: a build is brought, mended, gone back to or taken away, or nothing is."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from building import make_checkpoint, quick_build, record_anew, snapshot
from tritext.build import release
from tritext.build.staging import STAGING, staging
from tritext.errors import BuildError, RepositoryError
from tritext.manifest import MANIFEST
from tritext.naming import ROLES, step_name
from tritext.repository import CONFIG, BuiltModel, committed


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("other") / "checkpoint", seed=5)


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "copy"))


def model(repository: Path, name: str = "texts") -> BuiltModel:
    found = committed(repository, name)
    assert found is not None
    return found


def weights(model: BuiltModel) -> Path:
    return model.step("encoder") / "model.onnx"


def garble(path: Path) -> None:
    path.write_bytes(b'name: "te')


# --- a build that is there already -------------------------------------------------------------------------------


def test_the_same_build_is_committed_again(copy: Path, repository: Path) -> None:
    before, number = snapshot(copy), (copy / "texts" / CONFIG).stat().st_ino
    assert release.deploy(model(repository), copy) == model(copy)
    assert snapshot(copy) == before
    assert (copy / "texts" / CONFIG).stat().st_ino != number  # a commit, by which a server tries it once more


@pytest.mark.parametrize("damage", [garble, Path.unlink, lambda path: shutil.rmtree(path.parent)])
@pytest.mark.parametrize(
    "place",
    [
        weights,
        lambda it: it.step("tokenizer").parent / CONFIG,
        lambda it: it.folder / MANIFEST,
        lambda it: it.folder / CONFIG,
    ],
    ids=["weights", "step", "manifest", "config"],
)
def test_a_damaged_build_is_mended_by_a_whole_one(
    copy: Path, repository: Path, place: Callable[[BuiltModel], Path], damage: Callable[[Path], None]
) -> None:
    there = model(copy)
    whole = there.step("tokenizer") / "tokenizer.json"
    number, before = whole.stat().st_ino, snapshot(copy)
    damage(place(there))
    is_whole = whole.exists()
    assert release.deploy(model(repository), copy) == there
    assert there.damage() == []
    assert not is_whole or whole.stat().st_ino == number  # what may be served is not touched
    manifest = str((there.folder / MANIFEST).relative_to(copy))
    assert {**snapshot(copy), manifest: ""} == {**before, manifest: ""}
    assert there.manifest().replaces is None


def test_nothing_is_written_through_a_link_that_leads_out(copy: Path, repository: Path, tmp_path: Path) -> None:
    step = model(copy).step("encoder")
    outside = Path(shutil.move(step, tmp_path / "outside"))
    step.symlink_to(outside)
    garble(outside / "model.onnx")
    with pytest.raises(RepositoryError, match=r"cannot be mended\. Remove texts there, and deploy it\."):
        release.deploy(model(repository), copy)
    assert (outside / "model.onnx").read_bytes() == b'name: "te'


def test_another_build_of_the_same_inputs_is_refused_and_changes_nothing(copy: Path, repository: Path) -> None:
    there = model(copy)
    weights(there).write_bytes(weights(there).read_bytes() + b"\0")
    record_anew(there)
    assert there.damage() == []
    before = snapshot(copy)
    with pytest.raises(
        RepositoryError, match=rf"has a build {there.build} of texts .* Build that one again with --force"
    ):
        release.deploy(model(repository), copy)
    assert snapshot(copy) == before


def test_a_model_that_is_new_there_and_one_that_replaces(copy: Path, other_checkpoint: Path, tmp_path: Path) -> None:
    made = quick_build(other_checkpoint, tmp_path / "made", "texts").model
    assert release.deploy(made, tmp_path / "empty").manifest().replaces is None
    before = model(copy).build
    assert release.deploy(made, copy).manifest().replaces == before
    assert model(copy).damage() == []


# --- ways back where the committed configuration is damaged ------------------------------------------------------


def test_a_damaged_configuration_is_no_dead_end(copy: Path, repository: Path, other_checkpoint: Path) -> None:
    first = model(copy)
    second = quick_build(other_checkpoint, copy, "texts").model
    garble(copy / "texts" / CONFIG)
    with pytest.raises(RepositoryError) as caught:
        release.rollback(copy, "texts")
    assert str(caught.value).endswith(
        f"Name the build with --to. There is: {', '.join(sorted([first.build, second.build]))}."
    )
    assert release.rollback(copy, "texts", second.build) == model(copy) == second
    (copy / "texts" / CONFIG).unlink()
    assert release.deploy(model(repository), copy) == model(copy) == first
    garble(copy / "texts" / CONFIG)
    release.remove(copy, "texts")
    assert [path.name for path in copy.iterdir() if path.name.startswith("texts")] == []


def test_a_way_back_is_on_the_disk_before_it_is_said_to_be(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    release.rollback(copy, "texts", model(copy).build)
    staged, folder = flushed
    assert staged.endswith(f"{STAGING}texts/{CONFIG}")
    assert folder == str((copy / "texts").resolve())


# --- taking away -------------------------------------------------------------------------------------------------


def test_a_model_in_whose_folder_another_is_being_built_stays(copy: Path, checkpoint: Path) -> None:
    before = snapshot(copy)
    with staging(copy, "new") as staged:
        (staged / "half").write_text("made")
        assert staged.parent == copy / "texts"
        with pytest.raises(RepositoryError, match="texts cannot be removed now: new is being built in its folder"):
            release.remove(copy, "texts")
        assert (staged / "half").read_text() == "made"
        release.remove(copy, "tokens")
    assert snapshot(copy) == {path: digest for path, digest in before.items() if not path.startswith("tokens")}


def test_who_comes_while_a_model_is_taken_away_finds_it_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = copy / "texts" / f"{STAGING}new"
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path == copy / "texts":
            guest.mkdir()
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    before = snapshot(copy)
    with pytest.raises(RepositoryError, match="new is being built in its folder"):
        release.remove(copy, "texts")
    guest.rmdir()
    assert snapshot(copy) == before


@pytest.mark.parametrize("at", range(1, 5))
def test_a_removal_that_is_broken_off_leaves_no_half_and_is_finished_by_the_next(
    copy: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, moved = model(copy), list[str]()
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        moved.append(path.name)
        if len(moved) == at:
            raise KeyboardInterrupt
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        release.remove(copy, "texts")
    monkeypatch.undo()
    assert moved[0] == "texts"  # what calls the steps goes before them
    left = [copy / step_name("texts", role, there.build) for role in ROLES]
    assert [each for each in left if each.exists() and not (each / CONFIG).is_file()] == []
    release.remove(copy, "texts")
    assert sorted(path.name.partition("_")[0] for path in copy.iterdir()) == ["tokens"] * 4
    with pytest.raises(RepositoryError, match="has no model texts"):
        release.remove(copy, "texts")


def test_what_an_older_tritext_left_of_a_removal_is_taken_away(copy: Path) -> None:
    (model(copy).step("encoder").parent / CONFIG).unlink()
    (copy / "texts" / CONFIG).unlink()
    release.remove(copy, "texts")
    assert sorted(path.name.partition("_")[0] for path in copy.iterdir()) == ["tokens"] * 4


@pytest.mark.parametrize("name", ["theirs", "../outside", "*", "link"])
def test_nothing_of_others_is_taken_away(copy: Path, repository: Path, tmp_path: Path, name: str) -> None:
    (copy / "theirs" / "1").mkdir(parents=True)
    (copy / "theirs" / CONFIG).write_text('name: "theirs"')
    shutil.copytree(repository / "texts", tmp_path / "outside")
    (copy / "link").symlink_to(tmp_path / "outside")
    for damage in (lambda: None, (tmp_path / "outside" / CONFIG).unlink):
        damage()
        before = snapshot(tmp_path)
        with pytest.raises(RepositoryError):
            release.remove(copy, name)
        assert snapshot(tmp_path) == before


# --- whose fault it is -------------------------------------------------------------------------------------------


def test_the_repository_is_not_blamed_for_a_file_elsewhere(tmp_path: Path) -> None:
    def fail(path: Path) -> str:
        with pytest.raises(BuildError) as caught, staging(tmp_path / "repository", "a"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return str(caught.value)

    assert fail(tmp_path / "checkpoint" / "x") == f"{tmp_path / 'checkpoint' / 'x'} cannot be used: Permission denied."
    ours = tmp_path / "repository"
    assert fail(ours / "x") == f"{ours} cannot be written: Permission denied."
    with pytest.raises(OSError, match=r"^libx\.so is missing$"), staging(ours, "a"):
        raise OSError("libx.so is missing")
