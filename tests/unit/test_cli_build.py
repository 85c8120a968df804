"""`tritext build` and `tritext inspect` as a user meets them: exit codes, sentences, which stream says what."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from building import JUDGED, few_texts, snapshot
from tritext import cli
from tritext.cli.build import _texts as texts_in
from tritext.cli.progress import TerminalProgress
from tritext.cli.texts import Columns
from tritext.engines import ENGINES
from tritext.manifest import Manifest
from tritext.repository import committed, models


@dataclass
class Done:
    """What a command left."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `tritext` with the given arguments, as its entry point does."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["tritext", *map(str, arguments)])
        capfd.readouterr()
        code: Any = 0
        try:
            with few_texts():
                cli.main()
        except SystemExit as error:
            code = error.code or 0
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Done(code, out, err)

    return call


def build_into(repository: Path, *more: object, name: str = "spam") -> tuple[object, ...]:
    return ("--name", name, "--out", repository, "--engine", "onnxruntime", "--precision", "fp32", *more)


# --- build -------------------------------------------------------------------------------------------------------


def test_a_build(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    done = run("build", checkpoint, *build_into(tmp_path / "my models"))
    assert done.code == 0
    assert done.out == f"Built spam. Serve it with: tritext serve '{tmp_path / 'my models'}'\n"
    lines = done.err.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "✓ Read the checkpoint",
        "✓ Load the weights",
        "✓ Ask the checkpoint for reference",
        "✓ Export to ONNX",
        "✓ Build the engine: onnxruntime fp32",
        "✓ Compare with the checkpoint",
        "✓ Commit",
    ]
    assert all(" s " in line for line in lines)
    assert "7 texts, ids identical, logits within " in lines[5]
    assert "labels 7/7" in lines[5]
    again = run("build", checkpoint, *build_into(tmp_path / "my models"))
    assert again.code == 0
    assert again.out.startswith("Already built, nothing changed: spam. Serve it with:")
    assert "✓ Check the build that is there" in again.err
    forced = run("build", checkpoint, *build_into(tmp_path / "my models", "--force"))
    assert forced.out.startswith("Built spam.")


def test_every_option(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    done = run(
        "build", checkpoint,
        *build_into(
            tmp_path / "r", "--labels", "a, b,c ,d", "--problem-type", "multi_label_classification", "--max-length", 16,
            "--max-batch-size", 5, "--default", "top_k=all", "--default", "truncation=error", "--tokenizer", checkpoint,
            "--task", "text-classification", "--precision", "fp32", "--json",
        ),
    )  # fmt: skip
    assert done.code == 0
    said = json.loads(done.out)
    assert said["labels"] == ["a", "b", "c", "d"]
    assert said["problem_type"] == "multi_label_classification"
    assert (said["max_length"], said["max_batch_size"]) == (16, 5)
    model = committed(tmp_path / "r", "spam")
    assert model is not None
    assert Manifest.read(model.folder).build == said["build"]
    settings = json.loads((model.step("tokenizer") / "settings.json").read_text())
    assert settings["defaults"] == {"top_k": "all", "truncation": "error"}


def test_labels_as_json(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    done = run("build", checkpoint, *build_into(tmp_path, "--labels", '["a, b", "c", "d", "e"]', "--json"))
    assert json.loads(done.out)["labels"] == ["a, b", "c", "d", "e"]


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (("--labels", "a,b"), 1, "error: --labels gives 2 names, the checkpoint has 4 classes."),
        (("--default", "top_k=0"), 1, "error: A --default cannot be. Parameter top_k is '0'; it must be a whole num"),
        (("--default", "topk=1"), 1, "Parameter 'topk' is unknown. Did you mean top_k?"),
        (("--engine", "x"), 1, f"error: Engine 'x' is unknown. Engines: {', '.join(ENGINES)}."),
        (("--precision", "int1"), 1, "error: Engine onnxruntime has no precision 'int1'; it has fp32, int8."),
        (("--max-length", "4"), 1, "error: --max-length 4 is too short; it must be at least 8 tokens."),
        (("--task", "x"), 1, "error: Task 'x' is not supported."),
        (("--problem-type", "x"), 1, "error: Problem type 'x' is not one of"),
        (("--tokenizer", "/no/where"), 1, "error: --tokenizer /no/where is not a directory."),
        (("--name", "a/b"), 1, "error: 'a/b' cannot be a model's name."),
        (("--revision", "main"), 1, "is a directory, which has no revisions. Leave --revision out."),
        (("--default", "top_k"), 2, "'top_k' is not KEY=VALUE."),
        (("--default", "=1"), 2, "'=1' is not KEY=VALUE."),
        (("--engine", "tensorrt", "--plan", "x"), 2, "'x' is not KEY=VALUE."),
        (("--labels", "[1]"), 2, "'[1]' is not names separated by commas, or a JSON list of strings"),
        (("--max-length", "many"), 2, "--max-length"),
        (("--nonsense",), 2, "No such option"),
    ],
)
def test_what_is_refused(
    run: Run, checkpoint: Path, tmp_path: Path, more: tuple[str, ...], code: int, sentence: str
) -> None:
    done = run("build", checkpoint, *build_into(tmp_path / "r", *more))
    assert (done.code, done.out) == (code, "")
    assert sentence in " ".join(done.err.replace("│", " ").split())
    assert not (tmp_path / "r").exists()


def test_no_checkpoint(run: Run, tmp_path: Path) -> None:
    done = run("build", tmp_path / "none", *build_into(tmp_path / "r"))
    assert (done.code, done.out, done.err) == (1, "", f"error: {tmp_path / 'none'} is not a directory.\n")


def test_a_build_that_fails_in_a_step_names_it(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritext.engines.onnxruntime import OnnxRuntimeRunner

    real = OnnxRuntimeRunner.run
    monkeypatch.setattr(OnnxRuntimeRunner, "run", lambda self, arrays: real(self, arrays) + 1)
    done = run("build", checkpoint, *build_into(tmp_path))
    assert (done.code, done.out) == (1, "")
    *_, failed, sentence = done.err.splitlines()
    assert failed == "✗ Compare with the checkpoint"
    assert sentence.startswith("error: The pipeline's logits differ from the checkpoint's by up to 1, more than the ")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (folder / "model.safetensors").write_bytes(b"")
    done = run("build", folder, *build_into(tmp_path / "r"))
    assert done.code == 1
    failed, sentence = done.err.splitlines()[-2:]
    assert failed == "✗ Load the weights"
    assert sentence.startswith(f"error: The weights of {folder} cannot be loaded: ")
    assert list((tmp_path / "r").iterdir()) == []


def test_breaking_off(run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.onnx.export", press)
    done = run("build", checkpoint, *build_into(tmp_path))
    assert done.code in {1, 130}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "command"),
    [("huggingface_hub", "build"), ("torch", "build"), ("transformers", "inspect")],
)
def test_without_the_build_extra(checkpoint: Path, tmp_path: Path, missing: str, command: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from tritext.cli import main; main()"
    arguments = [command, checkpoint, *(build_into(tmp_path) if command == "build" else ())]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"needs {missing}, which is not installed. Install it with: pip install 'tritext[build]'\n"
    assert done.stderr.endswith(expected)
    assert "Traceback" not in done.stderr


# --- the choice of engine and precision --------------------------------------------------------------------------


def judged_by(folder: Path) -> Path:
    """Texts to choose a precision by."""
    path = folder / "texts.txt"
    path.write_text("\n".join(["", *JUDGED, " "]), encoding="utf-8")
    return path


def test_the_best_of_several(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    """The table is for the terminal, the manifest holds the same."""
    loose = ("--min-agreement", 0.8, "--max-drift", 0.6)
    done = run(
        "build", checkpoint,
        *build_into(tmp_path / "r", "--precision", "auto", "--texts", judged_by(tmp_path), *loose, "--json"),
    )  # fmt: skip
    assert done.code == 0, done.err
    candidates = json.loads(done.out)["candidates"]
    assert {each["precision"] for each in candidates} == {"fp32", "int8"}
    assert [each["verdict"] for each in candidates].count("chosen") == 1
    assert "24 texts of yours" in done.err  # of 36; the others were to calibrate on
    table = done.err[done.err.index("verdict") :].splitlines()
    for each in candidates:
        (line,) = [line for line in table if line.startswith(f"onnxruntime {each['precision']}")]
        assert line.rstrip().endswith(each["verdict"])
        if each["accuracy"]:
            assert f"{each['accuracy']['agreement']:.2%}" in line
        if each["tokens_per_second"]:
            assert f"{each['tokens_per_second']:,.0f}" in line


@pytest.mark.parametrize("precision", ["auto", "int8"])
def test_nothing_that_fails_the_gate_is_built(run: Run, checkpoint: Path, tmp_path: Path, precision: str) -> None:
    impossible = ("--min-agreement", 1, "--max-drift", 0, "--texts", judged_by(tmp_path))
    done = run("build", checkpoint, *build_into(tmp_path / "r", "--precision", precision, *impossible))
    assert (done.code, done.out) == (1, "")
    said = done.err.splitlines()[-1]
    assert said.startswith("error: No way to run this model passes the gate (onnxruntime ")
    for each in ("fp32", "int8") if precision == "auto" else ("int8",):
        assert re.search(rf"{each}: (\d+\.\d\d% of labels agree|scores drift by 0\.\d+|not here)", said), said
    assert list((tmp_path / "r").iterdir()) == []


@pytest.mark.parametrize(
    ("more", "code", "sentence"),
    [
        (("--min-agreement", "1.5"), 2, "Invalid value for '--min-agreement': Input should be less than or equal to 1"),
        (("--max-drift", "-1"), 2, "Invalid value for '--max-drift'"),
        (("--texts", "/no/where.txt"), 2, "does not exist"),
    ],
)
def test_bounds_that_cannot_be(
    run: Run, checkpoint: Path, tmp_path: Path, more: tuple[str, ...], code: int, sentence: str
) -> None:
    done = run("build", checkpoint, *build_into(tmp_path / "r", *more))
    assert (done.code, done.out) == (code, "")
    assert sentence in " ".join(done.err.replace("│", " ").split())
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("t.txt", "one\n\n two \r\n", ("one", " two ")),
        ("t", "{\n", ("{",)),
        ("t.jsonl", '{"text": "a\\nb"}\n{"text": "c", "text_pair": "d", "more": 1}\n', ("a\nb", ("c", "d"))),
        ("t.ndjson", '{"text": "é"}\n', ("é",)),
        ("t.csv", 'label,text\nx,"one, and\ntwo"\ny,three\n', ("one, and\ntwo", "three")),
        ("t.csv", "text,text_pair\na,b\nc,\n", (("a", "b"), ("c", ""))),
    ],
)
def test_files_of_texts(name: str, content: str, texts: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert texts_in(tmp_path / name, Columns()) == texts


def test_columns_of_a_file_of_texts(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("body,other,text\na,b,c\n", encoding="utf-8")
    assert texts_in(tmp_path / "t.csv", Columns("body")) == ("a",)
    assert texts_in(tmp_path / "t.csv", Columns("body", "other")) == (("a", "b"),)
    more = ("--texts", tmp_path / "t.csv", "--column", "body", "--pair-column", "other", "--precision", "auto")
    assert "1 different texts are too few" in run("build", checkpoint, *build_into(tmp_path / "r", *more)).err
    assert "--column: Say with --texts" in run("build", checkpoint, *build_into(tmp_path / "r", "--column", "body")).err


def test_no_more_of_a_file_is_read_than_is_used(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"".join(b"%d\n" % number for number in range(2000)) + b"\xff\n")
    assert len(texts_in(tmp_path / "t.txt", Columns())) == 2000


@pytest.mark.parametrize(
    ("name", "content", "code", "sentence"),
    [
        ("t.txt", b"", 1, "holds no text. Leave it out to have the build choose by texts of its own."),
        ("t.txt", b"\n  \n", 1, "holds no text."),
        ("t.txt", b"fine\n\xff\n", 2, "line 2 is not valid UTF-8"),
        ("t.csv", b"a,b\n1,2\n", 2, "has no column 'text'"),
        ("t.jsonl", b'{"text": 1}\n', 2, "line 1 has no string in 'text'"),
        ("t.txt", b"a\nb\nc\na\n", 1, "3 different texts are too few to choose a precision by."),
    ],
)
def test_texts_that_are_none(
    run: Run, checkpoint: Path, tmp_path: Path, name: str, content: bytes, code: int, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    more = ("--precision", "auto", "--texts", tmp_path / name)
    done = run("build", checkpoint, *build_into(tmp_path / "r", *more))
    assert (done.code, done.out) == (code, "")
    assert sentence in done.err.splitlines()[-1]
    assert not (tmp_path / "r").exists() or list((tmp_path / "r").iterdir()) == []


# --- inspect -----------------------------------------------------------------------------------------------------


def rows(text: str) -> dict[str, str]:
    return {line[:16].strip(): line[16:].strip() for line in text.splitlines() if line.strip()}


def test_inspecting_a_checkpoint(run: Run, checkpoint: Path) -> None:
    done = run("inspect", checkpoint)
    assert (done.code, done.err) == (0, "")
    pairs = {line[:14].strip(): line[14:].strip() for line in done.out.splitlines() if line.strip()}
    assert pairs["architecture"] == "BertForSequenceClassification"
    assert pairs["task"] == "text-classification"
    assert pairs["labels"] == "négatif, 中立, положительный, محايد"
    assert pairs["max length"] == "128"
    said = json.loads(run("inspect", checkpoint, "--json").out)
    assert len(said) == 1
    assert said[0]["checkpoint"] == str(checkpoint)
    assert said[0]["labels"] == ["négatif", "中立", "положительный", "محايد"]


def test_inspecting_a_checkpoint_with_overrides(run: Run, checkpoint: Path) -> None:
    shown = json.loads(run("inspect", checkpoint, "--max-length", 16, "--problem-type", "regression", "--json").out)[0]
    assert (shown["max_length"], shown["problem_type"]) == (16, "regression")


def test_inspecting_a_repository(run: Run, repository: Path) -> None:
    before = snapshot(repository)
    done = run("inspect", repository)
    assert (done.code, done.err) == (0, "")
    texts, tokens = (rows(table) for table in done.out.strip().split("\n\n"))
    model = committed(repository, "texts")
    assert model is not None
    assert texts["model"] == "texts"
    assert texts["build"].startswith(f"{model.build}, 20")
    assert texts["checkpoint"] == "checkpoint (BertForSequenceClassification)"
    assert texts["engine"].startswith("onnxruntime fp32 ")
    assert texts["parity"].startswith("7 texts: ids identical, labels 7/7, logits within ")
    assert texts["files"] == f"{len(model.manifest().files)}, as they were built"
    assert tokens["model"] == "tokens"
    assert tokens["labels"].startswith("O, B-PER, ")
    assert snapshot(repository) == before


def test_inspecting_a_repository_as_json(run: Run, repository: Path) -> None:
    said = json.loads(run("inspect", repository, "--json").out)
    assert [document["name"] for document in said] == ["texts", "tokens"]
    for document, model in zip(said, models(repository), strict=True):
        assert document.pop("damage") == []
        assert document == json.loads(model.manifest().to_json())


def test_inspecting_damage(run: Run, repository: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "copy"))
    model = committed(copy, "texts")
    assert model is not None
    (model.step("encoder") / "model.onnx").unlink()
    expected = f"texts_encoder_{model.build}/1/model.onnx"
    done = run("inspect", copy)
    assert f"missing or changed: {expected}" in done.out
    assert done.code == 1
    assert json.loads(run("inspect", copy, "--json").out)[0]["damage"] == [expected]


@pytest.mark.parametrize("as_json", [False, True])
def test_inspecting_what_is_neither(run: Run, tmp_path: Path, as_json: bool) -> None:
    done = run("inspect", tmp_path, *(["--json"] if as_json else []))
    expected = f"error: {tmp_path} holds neither a checkpoint (config.json) nor a model that tritext built.\n"
    assert (done.code, done.out, done.err) == (1, "", expected)


def test_inspecting_nothing(run: Run) -> None:
    assert run("inspect", "/no/where").err == "error: /no/where is not a directory.\n"


def test_inspecting_a_manifest_of_another_schema(run: Run, repository: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(repository, tmp_path / "copy"))
    model = committed(copy, "texts")
    assert model is not None
    path = model.folder / "manifest.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 9'))
    done = run("inspect", copy)
    assert done.code == 1
    assert "has schema 9, this tritext reads 1. Build the model again, or use the version of tritext" in done.err


def test_labels_that_look_like_markup_are_shown(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    labels = '["[bold]x[/bold]", "[/red]", "[PER]", ":smile:"]'
    assert run("build", checkpoint, *build_into(tmp_path / "[red]", "--labels", labels)).code == 0
    assert "[bold]x[/bold], [/red], [PER], :smile:" in run("inspect", tmp_path / "[red]").out


def test_many_labels_are_counted(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    values = json.loads((folder / "config.json").read_text())
    values["id2label"] = {str(index): f"label {index}" for index in range(40)}
    (folder / "config.json").write_text(json.dumps(values | {"label2id": {}}))
    assert "label 10, label 11, … (40 in all)" in run("inspect", folder).out


# --- progress ----------------------------------------------------------------------------------------------------


def test_progress_without_a_terminal_is_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress(Console(width=40)) as progress:
        progress.step("First", total=2)
        progress.advance()
        progress.done("a note with [brackets] and more than forty characters")
        progress.done("nothing is open")
        progress.advance()
        progress.step("Second")
        progress.done()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("✓ First ")
    assert first.endswith("a note with [brackets] and more than forty characters")
    assert second.startswith("✓ Second ")


def test_progress_on_a_terminal_moves(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress(Console(force_terminal=True, width=80)) as progress:
        progress.step("First", total=2)
        progress.advance()
        progress.done("note")
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "note" in out


def test_progress_marks_the_step_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with TerminalProgress(Console(width=40)) as progress:
            progress.step("First")
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert capsys.readouterr().out == "✗ First\n"


def test_thresholds_come_from_a_file(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text('{"négatif": 0.5, "中立": 0.5, "положительный": 0.5, "محايد": 0}', encoding="utf-8")
    done = run("build", checkpoint, *build_into(tmp_path / "repository", "--thresholds", path))
    assert done.out.startswith("Built spam."), done.err
    path.write_text('{"négatif": "high"}', encoding="utf-8")
    done = run("build", checkpoint, *build_into(tmp_path / "repository", "--thresholds", path))
    assert done.code != 0
    assert "négatif: high; it must be a number from 0 to 1" in " ".join(done.err.split())


def test_python_runs_the_command_where_its_folder_is_not_on_the_path() -> None:
    done = subprocess.run([sys.executable, "-m", "tritext", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tritext ")
