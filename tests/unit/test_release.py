"""What is committed changes without a build: a build is brought, mended, gone back to or taken away, or nothing is."""

import errno
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from building import make_checkpoint, model, quick_build, record_anew, snapshot
from tritext.build import release
from tritext.build.staging import STAGING, staging
from tritext.errors import BuildError, RepositoryError
from tritext.in_use import InUse, is_in_use
from tritext.manifest import MANIFEST
from tritext.naming import ROLES, step_name
from tritext.repository import BUILDS, CONFIG, KEPT, VERSION, BuiltModel, earlier


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("other") / "checkpoint", seed=5)


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


def test_a_version_folder_that_is_gone_comes_back_as_a_copy_by_git_can_keep_it(copy: Path, repository: Path) -> None:
    before = snapshot(copy)
    shutil.rmtree(copy / "texts" / VERSION)
    release.deploy(model(repository), copy)
    assert (copy / "texts" / VERSION / KEPT).is_file()
    assert snapshot(copy) == before


def test_a_version_folder_elsewhere_is_not_written_to(copy: Path, repository: Path, tmp_path: Path) -> None:
    version, outside = copy / "texts" / VERSION, tmp_path / "outside"
    shutil.rmtree(version)
    outside.mkdir()
    version.symlink_to(outside)
    release.deploy(model(repository), copy)
    assert list(outside.iterdir()) == []


def test_what_is_served_stays_in_use_though_its_record_is_mended(copy: Path, repository: Path) -> None:
    there, in_use = model(copy), InUse()
    try:
        in_use.keep([there])
        garble(there.folder / MANIFEST)
        release.deploy(model(repository), copy)
        in_use.keep([there])
        assert is_in_use(there.folder)
        (there.folder / MANIFEST).rename(there.folder / "away")
        in_use.keep([there])  # what cannot be held anew is held on to
        (there.folder / "away").rename(there.folder / MANIFEST)
        assert is_in_use(there.folder)
    finally:
        in_use.keep([])
    assert not is_in_use(there.folder)


def test_the_build_that_one_from_before_takes_the_place_of_is_the_one_to_go_back_to(
    copy: Path, repository: Path, other_checkpoint: Path, checkpoint: Path
) -> None:
    first = model(copy)
    second = quick_build(other_checkpoint, copy, "texts").model
    for _ in range(2):  # the second time it is there and committed
        assert release.deploy(model(repository), copy) == model(copy) == first
        assert [each.build for each in earlier(copy, "texts", first.build)] == [second.build]
    assert second.damage(is_committed=False) == []
    assert release.rollback(copy, "texts") == model(copy) == second
    assert earlier(copy, "texts", second.build) == []  # what was gone back from is no way out
    assert release.deploy(model(repository), copy) == first
    third = quick_build(checkpoint, copy, "texts", force=True).model
    assert sorted(path.name for path in (copy / "texts" / BUILDS).iterdir()) == sorted([first.build, third.build])
    assert release.rollback(copy, "texts") == first


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


@pytest.mark.parametrize("change", [release.remove, release.rollback])
def test_a_name_that_no_model_has_changes_nothing(copy: Path, change: Callable[[Path, str], object]) -> None:
    step, before = model(copy).step("encoder").parent.name, snapshot(copy)
    for name in (step, "texts/", "./texts", "texts/../texts", f"../{copy.name}/texts", "texts\n", ".", ""):
        with pytest.raises(RepositoryError) as caught:
            change(copy, name)
        assert str(caught.value) == f"{copy} has no model {name}."
    assert snapshot(copy) == before


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


def test_a_disk_that_is_full_is_not_blamed_on_the_file_that_was_read(tmp_path: Path) -> None:
    elsewhere, ours = str(tmp_path / "elsewhere"), tmp_path / "repository"
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        with pytest.raises(RepositoryError) as caught, staging(ours, "a"):
            raise OSError(number, os.strerror(number), elsewhere, None, str(ours / "x"))
        assert str(caught.value) == f"{ours} cannot be written: {os.strerror(number)}."


def test_a_folder_that_cannot_be_copied_says_the_first_reason(tmp_path: Path) -> None:
    ours = tmp_path / "repository"
    for listed in ([("a", "b", "Input/output error"), ("c", "d", "Permission denied")], "Input/output error"):
        with pytest.raises(RepositoryError) as caught, staging(ours, "a"):
            raise shutil.Error(listed)
        assert str(caught.value) == f"{ours} cannot be written: Input/output error."


def _deploy_where_files_are_small(repository: Path, into: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with pytest.raises(RepositoryError, match=rf"{into} cannot be written: .*File too large"):
        release.deploy(model(repository), into)


@pytest.mark.parametrize("is_new", [True, False], ids=["brought", "mended"])
def test_a_deployment_that_has_no_room(copy: Path, repository: Path, tmp_path: Path, is_new: bool) -> None:
    """By the kernel's limit to a file's size, which fails where a full disk fails: at a write."""
    weights(model(copy)).unlink()
    into = tmp_path / "new" if is_new else copy
    process = multiprocessing.get_context("fork").Process(target=_deploy_where_files_are_small, args=(repository, into))
    process.start()
    process.join(60)
    assert process.exitcode == 0
