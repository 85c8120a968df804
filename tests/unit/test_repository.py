"""A repository on disk: who is in it, whether it is whole, and that it can be moved."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from building import answers, model, snapshot
from tritext import contract
from tritext.errors import EngineError, RepositoryError
from tritext.naming import ROLES, STEP_PATTERN, step_name
from tritext.pipeline import Pipeline
from tritext.repository import BUILDS, CONFIG, committed, is_ours, models, read_config


def files(repository: Path) -> list[Path]:
    return [path for path in sorted(repository.rglob("*")) if path.is_file()]


def test_models_by_name(repository: Path) -> None:
    assert [found.name for found in models(repository)] == ["texts", "tokens"]


def test_what_is_not_ours_is_left_out(copy: Path) -> None:
    (copy / "theirs" / "1").mkdir(parents=True)
    (copy / "theirs" / CONFIG).write_text('name: "theirs"')
    (copy / "README").write_text("hello")
    assert [found.name for found in models(copy)] == ["texts", "tokens"]
    with pytest.raises(RepositoryError, match="tritext did not make"):
        committed(copy, "theirs")
    assert not is_ours(copy / "theirs")
    assert committed(copy, "nobody") is None


@pytest.mark.parametrize("there", [False, True])
def test_no_repository(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "x").touch()
    with pytest.raises(RepositoryError, match="is not a folder"):
        models(tmp_path / "x")


def test_a_repository_without_models(tmp_path: Path) -> None:
    assert models(tmp_path) == []


@pytest.mark.parametrize("content", ["nonsense", "name: 3", "\xff"])
def test_a_configuration_that_cannot_be_read(copy: Path, content: str) -> None:
    (copy / "texts" / CONFIG).write_text(content, encoding="latin-1")
    with pytest.raises(RepositoryError, match=r"config\.pbtxt cannot be read as a Triton model configuration"):
        models(copy)
    assert is_ours(copy / "texts")


def test_a_configuration_cut_to_nothing(copy: Path) -> None:
    (copy / "texts" / CONFIG).write_text("")
    with pytest.raises(RepositoryError, match="or it is damaged"):
        models(copy)


def test_step_names_tell_their_model() -> None:
    for name in ("a", "a_b", "a_tokenizer", "a_tokenizer_encoder", "A.b-c", "a_encoder_0123"):
        for role in ROLES:
            match = STEP_PATTERN.fullmatch(step_name(name, role, "0123abcd"))
            assert match is not None
            assert (match["name"], match["role"], match["build"]) == (name, role, "0123abcd")


@pytest.mark.parametrize("name", ["texts", "tokens"])
def test_every_file_of_a_build_is_in_its_manifest(repository: Path, name: str) -> None:
    found = model(repository, name)
    listed = set(found.manifest().files)
    there = {str(path.relative_to(repository)) for path in files(repository)}
    own = {path for path in there if path.startswith((f"{name}/", f"{name}_"))}
    unlisted = own - listed
    assert unlisted == {f"{name}/{CONFIG}", f"{name}/1/.keep", f"{name}/{BUILDS}/{found.build}/manifest.json"}
    assert listed <= own


def test_a_fresh_build_has_no_damage(repository: Path) -> None:
    assert [found.damage() for found in models(repository)] == [[], []]


def test_damage_to_any_file_is_seen_and_named(copy: Path) -> None:
    found = model(copy)
    paths = [*found.manifest().files, f"texts/{CONFIG}"]
    for path in paths:
        whole = (copy / path).read_bytes()
        for spoilt in (whole[:-1], whole[:-1] + b"\xfe", whole + b"\n"):  # cut, altered in place, longer
            (copy / path).write_bytes(spoilt)
            assert found.damage() == [path]
        (copy / path).unlink()
        assert found.damage() == [path]
        (copy / path).write_bytes(whole)
    assert found.damage() == []


def test_a_version_folder_that_got_lost_is_damage(copy: Path) -> None:
    shutil.rmtree(copy / "texts" / "1")
    assert model(copy).damage() == ["texts/1"]


def test_a_copy_without_empty_folders_is_whole(repository: Path, tmp_path: Path) -> None:
    """Git and object stores keep files alone."""
    for path in files(repository):
        target = tmp_path / path.relative_to(repository)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    assert [found.damage() for found in models(tmp_path)] == [[], []]


def test_it_can_be_moved(copy: Path, repository: Path, tmp_path: Path) -> None:
    expected = answers(model(repository))
    moved = copy.rename(tmp_path / "elsewhere, with a space")
    assert model(moved).damage() == []
    assert answers(model(moved)) == expected
    assert answers(model(moved, "tokens")) == answers(model(repository, "tokens"))


def test_it_answers_from_a_relative_path(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(copy)
    assert answers(model(Path())) == answers(model(copy))


def test_no_path_of_the_building_machine_is_in_it(repository: Path, checkpoint: Path, token_checkpoint: Path) -> None:
    """Nor the user's name, the checkpoint's folder but its last part, or where Python is installed."""
    needles = {str(repository.parent), str(checkpoint.parent), str(token_checkpoint.parent), str(Path.cwd())}
    needles |= {str(Path.home()), sys.prefix, str(Path(contract.__file__).parents[1]), ".tritext-staging"}
    for path in files(repository):
        content = path.read_bytes()
        for needle in needles - {"/"}:
            assert needle.encode() not in content, f"{needle} in {path}"


def test_the_checkpoint_is_named_by_its_folder_alone(repository: Path) -> None:
    assert model(repository).manifest().checkpoint["source"] == "checkpoint"
    assert model(repository).manifest().checkpoint["revision"] is None


def test_loading_writes_nothing(repository: Path) -> None:
    before = snapshot(repository)
    Pipeline.load(model(repository))
    models(repository)
    assert snapshot(repository) == before


def test_a_read_only_repository_is_loaded(copy: Path) -> None:
    subprocess.run(["/bin/chmod", "-R", "a-w", copy], check=True)
    assert model(copy).damage() == []
    assert answers(model(copy))
    subprocess.run(["/bin/chmod", "-R", "u+w", copy], check=True)


@pytest.mark.parametrize(
    ("step", "file"), [("tokenizer", "tokenizer.json"), ("tokenizer", "settings.json"), ("encoder", "model.onnx")]
)
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_a_damaged_step_says_what_is_wrong(copy: Path, step: str, file: str, content: bytes | None) -> None:
    path = model(copy).step(step) / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises((RepositoryError, EngineError), match=re.escape(str(path))):
        Pipeline.load(model(copy))


def test_the_ensemble_and_the_steps_carry_the_build(repository: Path) -> None:
    found = model(repository)
    for name in ("texts", *found.manifest().steps.values()):
        assert read_config(repository / name).parameters[contract.PARAM_BUILD].string_value == found.build
