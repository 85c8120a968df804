"""A repository is whole at every moment, whatever happens to whoever builds into it."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from building import answers, make_checkpoint, model, quick_build, snapshot
from crashing import Points, played_back, record
from tritext.build import release
from tritext.build.staging import LOCK, STAGING, staging
from tritext.errors import RepositoryError
from tritext.naming import ROLES, step_name
from tritext.pipeline import Pipeline
from tritext.repository import BUILDS, CONFIG, BuiltModel

SCRIPT = Path(__file__).parents[1] / "crashing.py"


@pytest.fixture(scope="module")
def other_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `checkpoint`, with other weights."""
    return make_checkpoint(tmp_path_factory.mktemp("other") / "checkpoint", seed=5)


def hidden(repository: Path) -> list[str]:
    return sorted(str(path.relative_to(repository)) for path in repository.rglob(".tritext*"))


# --- killed, and starved of disk, at every point -----------------------------------------------------------------


@pytest.fixture(scope="module")
def findings(
    checkpoint: Path, other_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """See crashing.py."""
    command = [sys.executable, SCRIPT, tmp_path_factory.mktemp("crashing"), checkpoint, other_checkpoint]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "at_least"),
    [("second build", 60), ("first build", 13), ("second build, in the making", 2), ("starved", 4)],
)
def test_a_build_that_dies_leaves_a_whole_model_and_is_cleared_up_by_the_next(
    findings: list[dict[str, Any]], kind: str, at_least: int
) -> None:
    found = [finding for finding in findings if finding["kind"] == kind]
    assert len(found) >= at_least
    assert {finding["point"]: finding["problems"] for finding in found if finding["problems"]} == {}


def test_the_commit_is_one_moment(findings: list[dict[str, Any]]) -> None:
    """Before it the old build answers, after it the new one, and there is no way back."""
    found = [finding for finding in findings if finding["kind"] == "second build"]
    found.sort(key=lambda finding: int(finding["point"].split(":")[0]))
    builds = [finding["build"] for finding in found]
    changes = [(before, after) for before, after in pairwise(builds) if before != after]
    assert len(changes) == 1
    last = found[builds.index(changes[0][1]) - 1]["point"]
    assert "os.rename" in last
    assert last.endswith(CONFIG)


@pytest.fixture(scope="module")
def points() -> Points:
    return Points()


@pytest.fixture(scope="module")
def cache(other_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build of `other_checkpoint` makes, before it is committed."""
    folder = tmp_path_factory.mktemp("cache")
    with record(folder):
        quick_build(other_checkpoint, folder / "repository", "texts")
    return folder


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_at_any_point_of_the_commit(
    repository: Path, copy: Path, other_checkpoint: Path, cache: Path, points: Points, number: int
) -> None:
    """The build ends with a sentence and takes back what it has done, or it is committed all the same."""
    before, old = snapshot(copy), model(copy).build
    sentences = []

    def refuse() -> None:
        raise OSError(number, os.strerror(number), str(copy / "somewhere"))

    # Every point is tried with the first number, a few with the others.
    for at in count(1, 1 if number == errno.ENOSPC else 6):
        points.arm(copy, at, refuse, events={"os.mkdir", "os.rename"})
        try:
            with played_back(cache, points):
                quick_build(other_checkpoint, copy, "texts")
        except RepositoryError as error:
            sentences.append(str(error))
            assert snapshot(copy) == before, points.point
            continue
        finally:
            was_reached = points.passed >= at
            points.disarm()
        assert model(copy).build != old
        assert model(copy).damage() == []
        if not was_reached:
            break
        shutil.rmtree(copy)
        shutil.copytree(repository, copy)
    assert len(sentences) >= (20 if number == errno.ENOSPC else 3)
    assert set(sentences) == {f"{copy} cannot be written: {os.strerror(number)}."}


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
def test_a_build_that_is_broken_off_takes_back_what_it_did(
    copy: Path, other_checkpoint: Path, cache: Path, points: Points, error: type[BaseException]
) -> None:
    before = snapshot(copy)

    def stop() -> None:
        raise error

    points.arm(copy, 18, stop)
    with played_back(cache, points), pytest.raises(error):
        quick_build(other_checkpoint, copy, "texts")
    assert snapshot(copy) == before


def test_what_cannot_be_removed_after_the_commit_does_not_undo_it(
    copy: Path, other_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritext.build import commit

    real, calls = commit.clean, []

    def clean(*args: Any) -> None:
        calls.append(args)
        if len(calls) > 1:
            raise PermissionError(errno.EACCES, "Permission denied")
        real(*args)

    monkeypatch.setattr(commit, "clean", clean)
    with played_back(cache, Points()):
        result = quick_build(other_checkpoint, copy, "texts")
    assert len(calls) == 2
    assert model(copy).build == result.model.build


# --- what is kept, what goes -------------------------------------------------------------------------------------


def test_the_same_inputs_change_nothing(repository: Path, checkpoint: Path) -> None:
    before = snapshot(repository)
    result = quick_build(checkpoint, repository, "texts")
    assert not result.changed
    assert result.manifest == model(repository).manifest()
    assert snapshot(repository) == before


def test_a_forced_build_never_touches_the_one_that_answers(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = model(copy)
    kept = {path: digest for path, digest in snapshot(copy).items() if old.build in path}
    result = quick_build(checkpoint, copy, "texts", force=True)
    assert result.changed
    assert result.model.build != old.build
    assert result.manifest.fingerprint == old.manifest().fingerprint
    assert kept.items() <= snapshot(copy).items()


def test_a_second_model_leaves_the_first_alone(tmp_path: Path, checkpoint: Path, token_checkpoint: Path) -> None:
    quick_build(checkpoint, tmp_path, "a")
    first = snapshot(tmp_path)
    quick_build(token_checkpoint, tmp_path, "a_b")
    quick_build(checkpoint, tmp_path, "a_b", max_batch_size=4)
    quick_build(checkpoint, tmp_path, "a_b", max_batch_size=5)
    assert first.items() <= snapshot(tmp_path).items()
    assert answers(model(tmp_path, "a")) == answers(model(tmp_path, "a_b"))


def test_one_build_is_kept_to_go_back_to(copy: Path, other_checkpoint: Path, checkpoint: Path) -> None:
    first, told = model(copy), answers(model(copy))
    second = quick_build(other_checkpoint, copy, "texts").model
    assert second.manifest().replaces == first.build
    assert answers(second) != told
    third = quick_build(checkpoint, copy, "texts", max_batch_size=7).model
    there = {path.name for path in (copy / "texts" / BUILDS).iterdir()}
    assert there == {second.build, third.build}
    steps = {path.name for path in copy.iterdir() if path.name.startswith("texts_")}
    assert steps == {step_name("texts", role, build) for role in ROLES for build in there}
    assert answers(BuiltModel(copy, "texts", second.build)) == answers(second)


def test_the_way_back_is_one_file(copy: Path, other_checkpoint: Path) -> None:
    old, told = model(copy), answers(model(copy))
    new = quick_build(other_checkpoint, copy, "texts").model
    shutil.copyfile(old.folder / CONFIG, copy / "texts" / CONFIG)
    assert model(copy).build == old.build
    assert model(copy).damage() == []
    assert answers(model(copy)) == told
    again = quick_build(other_checkpoint, copy, "texts")  # and forward: what was left behind is not trusted
    assert again.changed
    assert again.manifest.replaces == old.build
    assert {path.name for path in (copy / "texts" / BUILDS).iterdir()} == {old.build, again.model.build}
    assert new.build == again.model.build


def test_the_id_is_the_same_for_the_same_inputs(tmp_path: Path, checkpoint: Path) -> None:
    builds = {quick_build(checkpoint, tmp_path / place, "texts").model.build for place in ("a", "b")}
    assert len(builds) == 1


@pytest.mark.parametrize(
    "options", [{"max_batch_size": 3}, {"defaults": {"top_k": "2"}}, {"engine": "openvino"}], ids=str
)
def test_whatever_can_change_an_answer_changes_the_build(copy: Path, checkpoint: Path, options: dict[str, Any]) -> None:
    old = model(copy).manifest().fingerprint
    result = quick_build(checkpoint, copy, "texts", **options)
    assert result.changed
    assert result.manifest.fingerprint != old


def test_a_file_that_plays_no_part_changes_nothing(copy: Path, checkpoint: Path, tmp_path: Path) -> None:
    twin = Path(shutil.copytree(checkpoint, tmp_path / "twin"))
    (twin / "README.md").write_text("hello")
    (twin / ".stamp.json").write_text("{}")
    assert not quick_build(twin, copy, "texts").changed


# --- damage ------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])  # a manifest ends with a line's end, which is no loss


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [Path.unlink, cut, empty], ids=["missing", "cut", "empty"])
@pytest.mark.parametrize("place", ["weights", "tokenizer", "config", "manifest", "reference", "step config"])
def test_damage_is_noticed_and_built_anew(
    copy: Path, checkpoint: Path, place: str, damage: Callable[[Path], None]
) -> None:
    old, told = model(copy), answers(model(copy))
    path = {
        "weights": old.step("encoder") / "model.onnx",
        "tokenizer": old.step("tokenizer") / "tokenizer.json",
        "config": copy / "texts" / CONFIG,
        "manifest": old.folder / "manifest.json",
        "reference": old.folder / "reference.npz",
        "step config": old.step("postprocess").parent / CONFIG,
    }[place]
    damage(path)
    result = quick_build(checkpoint, copy, "texts")
    assert result.changed
    assert result.model.damage() == []
    assert answers(model(copy)) == told
    assert not quick_build(checkpoint, copy, "texts").changed
    assert hidden(copy) == []


def test_the_progress_says_what_was_damaged(copy: Path, checkpoint: Path) -> None:
    path = model(copy).step("encoder") / "model.onnx"
    cut(path)
    notes = []

    class Listener:
        def step(self, title: str, total: int | None = None) -> None: ...
        def advance(self) -> None: ...
        def done(self, note: str = "") -> None:
            notes.append(note)

    quick_build(checkpoint, copy, "texts", progress=Listener())
    assert f"not as it was built: {path.relative_to(copy)}" in notes


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/a", "-a", "_a", ".a", "a b", "ä", "a\n", "a\x00", "a" * 101, "*", "a:b", "~"],
)
def test_names_that_no_model_can_have(tmp_path: Path, checkpoint: Path, name: str) -> None:
    with pytest.raises(RepositoryError, match=r"cannot be a model's name\. Use letters"):
        quick_build(checkpoint, tmp_path / "r", name)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", ["a_tokenizer_0123abcd", "texts_encoder_ffffffff", "a_b_postprocess_00000000"])
def test_names_that_look_like_a_step(tmp_path: Path, checkpoint: Path, name: str) -> None:
    with pytest.raises(RepositoryError, match="has the form of a build's step"):
        quick_build(checkpoint, tmp_path, name)


@pytest.mark.parametrize("name", ["a_tokenizer", "a_tokenizer_x", "A.b-c_9", "1", "builds", "a" * 100])
def test_names_that_are_fine(repository: Path, name: str) -> None:
    from tritext.build.commit import check_name

    check_name(repository, name)


def theirs(folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / CONFIG).write_text(f'name: "{folder.name}" backend: "python"')
    (folder / "1" / "model.py").write_text("# theirs")


@pytest.mark.parametrize("make", [theirs, Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_folder_that_is_not_ours_is_refused_and_left_alone(
    copy: Path, checkpoint: Path, make: Callable[[Path], None]
) -> None:
    make(copy / "theirs")
    before = snapshot(copy)
    with pytest.raises(RepositoryError, match=r"exists and was not made by tritext\. Choose another --name or --out"):
        quick_build(checkpoint, copy, "theirs")
    assert snapshot(copy) == before


def test_a_model_that_looks_like_one_of_our_steps_is_refused_and_left_alone(copy: Path, checkpoint: Path) -> None:
    theirs(copy / "texts_tokenizer_deadbeef")
    before = snapshot(copy)
    with pytest.raises(RepositoryError, match="has the form of a step of texts"):
        quick_build(checkpoint, copy, "texts", force=True)
    assert snapshot(copy) == before
    assert quick_build(checkpoint, copy, "other").changed
    assert (copy / "texts_tokenizer_deadbeef" / "1" / "model.py").read_text() == "# theirs"


def test_a_repository_that_is_a_file(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "r").touch()
    with pytest.raises(RepositoryError, match=r"cannot be written: (File exists|Not a directory)\."):
        quick_build(checkpoint, tmp_path / "r", "a")


# --- who may write -----------------------------------------------------------------------------------------------


@pytest.fixture
def nobody(repository: Path) -> Iterator[Path]:
    """A repository that this process, for now without the rights of root, cannot write to."""
    place = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    place.chmod(0o755)
    copied = Path(shutil.copytree(repository, place / "copy"))
    subprocess.run(["/bin/chmod", "-R", "a-w,a+rX", copied], check=True)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield copied
    finally:
        os.seteuid(user)
        subprocess.run(["/bin/chmod", "-R", "u+w", copied], check=True)
        shutil.rmtree(place)


def test_a_repository_that_we_may_not_write_to(nobody: Path) -> None:
    before = snapshot(nobody)
    with pytest.raises(RepositoryError) as caught, staging(nobody, "texts"):
        pass
    assert str(caught.value) == f"{nobody} cannot be written: Permission denied."
    assert snapshot(nobody) == before
    assert answers(model(nobody))


def test_a_folder_in_which_we_may_not_make_one(nobody: Path) -> None:
    with pytest.raises(RepositoryError, match=r"cannot be written: Permission denied\."), staging(nobody / "x", "a"):
        pass


# --- one at a time -----------------------------------------------------------------------------------------------


def test_two_builds_of_one_name(copy: Path, checkpoint: Path) -> None:
    before = snapshot(copy)
    with staging(copy, "texts"), pytest.raises(RepositoryError) as caught:
        quick_build(checkpoint, copy, "texts", force=True)
    assert str(caught.value) == (
        f"texts is being built into {copy} already, by process {os.getpid()}. Wait until that has ended."
    )
    assert snapshot(copy) == before


def test_builds_of_two_names_do_not_mind_each_other(copy: Path, checkpoint: Path, token_checkpoint: Path) -> None:
    with staging(copy, "tokens") as live:
        (live / "half").write_text("made")
        assert quick_build(checkpoint, copy, "texts", force=True).changed
        assert quick_build(checkpoint, copy, "new").changed
        assert (live / "half").read_text() == "made"
    assert hidden(copy) == []


def test_staging_is_out_of_tritons_sight(copy: Path, tmp_path: Path) -> None:
    """Which would take a folder at the top for a model, and not start."""
    for name in ("texts", "new"):
        with staging(copy, name) as staged:
            assert staged.parent.parent == copy
            assert (staged.parent / CONFIG).is_file()
            at_the_top = [path for path in copy.iterdir() if path.name.startswith(".")]
            assert [(path.name, path.is_file()) for path in at_the_top] == [(f"{LOCK}{name}", True)]
    with staging(tmp_path / "empty", "new") as staged:
        assert staged == tmp_path / "empty" / f"{STAGING}new"


def test_what_dead_builders_left_goes_and_what_is_not_theirs_stays(copy: Path) -> None:
    for place in (copy, copy / "texts", copy / "tokens"):
        (place / f"{STAGING}gone" / "1").mkdir(parents=True)
    (copy / f"{LOCK}gone").write_text("1")
    (copy / f"{STAGING}x1y2").mkdir()
    (copy / ".other").mkdir()
    with staging(copy, "texts"):
        assert [path for path in hidden(copy) if "gone" in path or "x1y2" in path] == []
    assert hidden(copy) == []
    assert (copy / ".other").is_dir()


def test_leftovers_go_also_where_there_is_nothing_to_build(copy: Path, checkpoint: Path) -> None:
    (copy / "texts" / f"{STAGING}texts" / "1").mkdir(parents=True)
    for role in ROLES:
        shutil.copytree(model(copy).step(role).parent, copy / f"texts_{role}_00000000")
    before = {path for path in snapshot(copy) if STAGING not in path and "00000000" not in path}
    assert not quick_build(checkpoint, copy, "texts").changed
    assert set(snapshot(copy)) == before


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    program = """
        import sys, time
        from pathlib import Path
        from tritext.build.staging import staging
        with staging(Path(sys.argv[1]), "a") as folder:
            (folder / "half").mkdir()
            print("locked", flush=True)
            time.sleep(100)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RepositoryError, match=f"already, by process {process.pid}"), staging(tmp_path, "a"):
            pass
        with staging(tmp_path, "b"):
            assert (tmp_path / f"{STAGING}a" / "half").is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with staging(tmp_path, "a") as folder:
            assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_is_not_held(tmp_path: Path) -> None:
    """Whoever waits for a lock whose owner then removes it must take the new one."""
    with staging(tmp_path, "a"):
        (tmp_path / f"{LOCK}a").unlink()
        with staging(tmp_path, "b"):
            pass
    assert hidden(tmp_path) == []


def test_a_loaded_model_goes_on_while_it_is_replaced(copy: Path, other_checkpoint: Path) -> None:
    from building import text_inputs
    from tritext.stages.base import Request

    pipeline = Pipeline.load(model(copy))
    request = [Request(text_inputs(["Hello"]))]
    before = pipeline.run(request)[0].tensors["SCORE"].tolist()
    quick_build(other_checkpoint, copy, "texts")
    assert pipeline.run(request)[0].tensors["SCORE"].tolist() == before


def test_the_way_back_begins_at_what_others_commit_meanwhile(copy: Path, other_checkpoint: Path) -> None:
    first = model(copy)
    quick_build(other_checkpoint, copy, "texts")
    outcome: list[BuiltModel | RepositoryError] = []

    def go_back() -> None:
        try:
            outcome.append(release.rollback(copy, "texts"))
        except RepositoryError as error:
            outcome.append(error)

    thread = threading.Thread(target=go_back)
    with staging(copy, "texts"):
        thread.start()
        time.sleep(0.3)  # it waits for the lock by now
        shutil.copy(first.folder / CONFIG, copy / "texts" / CONFIG)
    thread.join()
    assert "has no build before" in str(outcome[0])


def test_a_way_back_that_there_is_not_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="has no model texts"):
        release.rollback(tmp_path / "nowhere", "texts")
    assert not (tmp_path / "nowhere").exists()


def test_a_build_that_two_deploy_at_once_is_there_once_and_whole(copy: Path, other_checkpoint: Path) -> None:
    other = copy.parent / "other"
    quick_build(other_checkpoint, other, "texts")
    before, wanted, errors = model(copy).build, model(other), list[str]()

    def deploy() -> None:
        try:
            release.deploy(wanted, copy)
        except RepositoryError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=deploy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each for each in errors if "is being built" not in each] == []  # who waits too long is told so
    assert (model(copy).build, model(copy).manifest().replaces) == (wanted.build, before)
    assert model(copy).damage() == []
    assert release.rollback(copy, "texts").build == before
