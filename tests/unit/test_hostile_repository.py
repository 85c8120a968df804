"""A repository or a checkpoint that somebody damaged or made up: refused with one sentence, before anything is done."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from building import make_checkpoint, model, snapshot
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.source import locate
from tritext.build.weights import load_model
from tritext.errors import CheckpointError, RepositoryError
from tritext.manifest import MANIFEST, Manifest
from tritext.repository import CONFIG, models, verify
from tritext.settings import SETTINGS, EngineSettings, TaskSettings

DEEP = "[" * 100_000 + "]" * 100_000
PACKAGE = Path(__file__).parents[2] / "plugin" / "tritext"


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TaskSettings, {"task": 3}),
        (TaskSettings, {"labels": "ham"}),
        (TaskSettings, {"labels": [1, 2]}),
        (TaskSettings, {"max_length": "many"}),
        (TaskSettings, {"max_length": 10**30}),
        (TaskSettings, {"max_length": True}),
        (TaskSettings, {"defaults": []}),
        (TaskSettings, {"lengths": [1.5]}),
        (TaskSettings, {"nobody": "knows"}),
        (EngineSettings, {"variants": [3]}),
        (EngineSettings, {"variants": {}}),
        (EngineSettings, {"per_text": "no"}),
        (EngineSettings, {"longest": -(10**20)}),
    ],
)
def test_settings_of_other_types_are_refused(copy: Path, kind: type[Any], values: dict[str, Any]) -> None:
    folder = model(copy).step("tokenizer" if kind is TaskSettings else "encoder")
    change(folder / SETTINGS, **values)
    with pytest.raises(RepositoryError, match=r"settings\.json cannot be read .*Build the model again"):
        kind.read(folder)


@pytest.mark.parametrize("artefact", ["../model.onnx", "/etc/passwd", "a/../../b", "", "x\0y"])
def test_an_artefact_outside_its_folder_is_refused(copy: Path, artefact: str) -> None:
    folder = model(copy).step("encoder")
    variants = json.loads((folder / SETTINGS).read_text())["variants"]
    change(folder / SETTINGS, variants=[{**variants[0], "artefact": artefact}])
    with pytest.raises(RepositoryError, match="leads out of its folder"):
        EngineSettings.read(folder)


@pytest.mark.parametrize("content", [DEEP, f'{{"task": {DEEP}}}', "1" * 10_000, "\0", '{"task": "a"'])
def test_json_that_no_program_wrote_is_refused(copy: Path, content: str) -> None:
    built = model(copy)
    for path, read in (
        (built.step("tokenizer") / SETTINGS, TaskSettings.read),
        (built.folder / MANIFEST, Manifest.read),
    ):
        path.write_text(content)
        with pytest.raises(RepositoryError, match=rf"{re.escape(path.name)} (cannot be read|has schema)"):
            read(path.parent)


@pytest.mark.parametrize(
    "values",
    [{"name": 3}, {"files": {"../../etc/passwd": "00"}}, {"files": {"/etc/passwd": "00"}}, {"files": {"a": 3}},
     {"max_length": 10**40}, {"parity": []}, {"engine": "fast"}, {"replaces": 1}],
)  # fmt: skip
def test_a_manifest_of_other_types_is_refused(copy: Path, values: dict[str, Any]) -> None:
    built = model(copy)
    change(built.folder / MANIFEST, **values)
    with pytest.raises(RepositoryError, match=r"manifest\.json cannot be read"):
        built.manifest()


@pytest.mark.parametrize("build", ["../../x", "..", "/etc", "0123abcg", "0123abcd/../x"])
def test_a_build_that_is_no_build_is_refused(copy: Path, build: str) -> None:
    path = copy / "texts" / CONFIG
    path.write_text(path.read_text().replace(model(copy).build, build))
    with pytest.raises(RepositoryError, match="or it is damaged"):
        models(copy)


def test_a_model_that_lies_elsewhere_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "texts").rename(tmp_path / "elsewhere")
    (copy / "texts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RepositoryError, match="is a link out of the repository"):
        models(copy)


def test_a_file_that_lies_elsewhere_is_damage_and_a_link_inside_is_none(copy: Path, tmp_path: Path) -> None:
    inside = model(copy, "tokens").step("tokenizer") / "tokenizer.json"
    inside.rename(copy / "kept.json")
    inside.symlink_to(copy / "kept.json")
    verify(models(copy))
    outside = model(copy).step("tokenizer") / "tokenizer.json"
    outside.rename(tmp_path / "tokenizer.json")
    outside.symlink_to(tmp_path / "tokenizer.json")
    with pytest.raises(RepositoryError, match=r"texts is not as it was built: texts_tokenizer_\w+/1/tokenizer\.json"):
        verify(models(copy))


@pytest.mark.parametrize("name", ["a b", "a;b", "-x", "é"])
def test_a_folder_with_a_name_that_no_model_can_have_is_refused(copy: Path, name: str) -> None:
    shutil.copytree(copy / "texts", copy / name)
    with pytest.raises(RepositoryError, match="has a name that no model can have"):
        models(copy)


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to(path.name)),
    ],
    ids=["cut", "one bit", "gone", "a folder", "a circle"],
)
def test_serving_refuses_whatever_is_not_as_it_was_built(copy: Path, spoil: Spoil) -> None:
    spoil(model(copy).step("encoder") / "model.onnx")
    command = [sys.executable, "-c", "from tritext.cli import main; main()", "serve", str(copy), "--model", "texts"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert re.fullmatch(r"error: texts is not as it was built: texts_encoder_\w{8}/1/model\.onnx in .*\n", ran.stderr)


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 10**9}, {"hidden_size": -1}, {"vocab_size": 10**12}, {"vocab_size": "many"},
        {"max_position_embeddings": 10**15}, {"id2label": {"999999999": "x"}}, {"id2label": {"-1": "x"}},
        {"id2label": {"x": "y"}}, {"id2label": 3}, {"architectures": 3}, {"intermediate_size": 10**30},
        {"num_attention_heads": 0}, {"hidden_act": ["x"]}, {"model_type": ["bert"]},
    ],
)  # fmt: skip
def test_a_configuration_that_nobody_trained_is_refused(
    checkpoint: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "made-up"))
    change(folder / "config.json", **values)
    with pytest.raises(CheckpointError) as caught:
        load_model(inspect(locate(str(folder)), Overrides())[0])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
def test_json_that_is_nested_without_end_is_refused(checkpoint: Path, tmp_path: Path, file: str) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "deep"))
    (folder / file).write_text('{"a": ' + DEEP + "}")
    with pytest.raises(CheckpointError):
        inspect(locate(str(folder)), Overrides())


def test_links_as_a_hubs_cache_has_them_are_followed(checkpoint: Path, tmp_path: Path) -> None:
    blobs, snapshot_ = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    shutil.copytree(checkpoint, blobs)
    snapshot_.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot_ / blob.name).symlink_to(os.path.relpath(blob, snapshot_))
    assert load_model(inspect(locate(str(snapshot_)), Overrides())[0]).num_parameters() > 0


# --- the machine -------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_up_leaves_the_repository_as_it_was(repository: Path, tmp_path: Path) -> None:
    """By the kernel's limit to a file's size, which fails where a full disk fails: at a write."""
    copied = Path(shutil.copytree(repository, tmp_path / "copy"))
    other = make_checkpoint(tmp_path / "other", seed=5)
    before = snapshot(copied)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    code = "from building import few_texts; from tritext.cli import main; few_texts().__enter__(); main()"
    command = [sys.executable, "-c", code, "build", str(other), "--name", "texts"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    options = ["--out", str(copied), "--engine", "onnxruntime", "--precision", "fp32"]
    ran = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
        preexec_fn=limited,
    )
    assert ran.returncode == 1
    assert "cannot be written: File too large" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert snapshot(copied) == before


# A file's time that is compared for being the same, never for being earlier or later: it tells a commit from the next.
SAME = {
    "serve/rollout.py: return _Commit(model.build, found.st_ino, found.st_mtime_ns)",
    "cli/release.py: committed_at = (model.repository / model.name / CONFIG).stat().st_mtime_ns",
}


def test_no_wait_and_no_lock_goes_by_the_wall_clock() -> None:
    """Clocks are set, and leap. The date of a build is all that is taken from them, a file's name, and what is SAME."""
    wall = re.compile(r"time\.time\(|time_ns\(|datetime\.(now|utcnow|today)\(|CLOCK_REALTIME|\.st_[amc]time")
    found = {
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if wall.search(line)
    }
    dates = {line for line in found if "isoformat(" in line or ".date()" in line or "with_suffix" in line}
    assert found == dates | SAME
