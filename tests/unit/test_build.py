"""Whole builds: what can be chosen, what each engine makes, what the repository then holds and answers."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import transformers

import checkpoints
from building import JUDGED, TEXTS, answers, make_checkpoint, quick_build, snapshot, text_inputs
from checkpoints import HEADS, MORE_ARCHITECTURES
from tritext import build as building
from tritext import contract
from tritext.build.checkpoint import Overrides
from tritext.build.gate import Bounds
from tritext.engines import ENGINES as ALL
from tritext.engines import engine_named, onnxruntime, openvino
from tritext.engines.base import Engine, Graph, Ingredients, RunnerOptions
from tritext.errors import BuildError, CheckpointError, EngineError, ExportError, InvalidInput
from tritext.pipeline import Pipeline, Trace
from tritext.repository import committed, read_config
from tritext.settings import EngineSettings, TaskSettings
from tritext.stages.base import Request

ENGINES = (onnxruntime.ENGINE, openvino.ENGINE)
FP32 = RunnerOptions("fp32")


class Heard:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []
        self.advances = 0

    def step(self, title: str, total: int | None = None) -> None:
        self.steps.append(title if total is None else f"{title} ({total})")

    def advance(self) -> None:
        self.advances += 1

    def done(self, note: str = "") -> None:
        self.notes.append(note)


def ask(result: Any, text: str, **parameters: object) -> Any:
    (trace,) = Pipeline.load(result.model).run([Request(text_inputs([text]), parameters)])
    if not isinstance(trace, Trace):
        raise trace
    return trace.tensors


# --- what can be chosen ------------------------------------------------------------------------------------------


def test_labels(checkpoint: Path, tmp_path: Path) -> None:
    names = ("a", "b, with a comma", "ç", "d")
    result = quick_build(checkpoint, tmp_path, overrides=Overrides(labels=names))
    assert result.manifest.labels == names
    told = read_config(tmp_path / "model").parameters["labels"].string_value
    assert tuple(json.loads(told)) == names
    assert {label.decode() for label in ask(result, "Hello", top_k="all")["LABEL"][0]} == set(names)


def test_problem_type(checkpoint: Path, tmp_path: Path) -> None:
    scores = {}
    for problem_type in ("single_label_classification", "multi_label_classification", "regression"):
        result = quick_build(checkpoint, tmp_path, overrides=Overrides(problem_type=problem_type))
        tensors = ask(result, "Hello", top_k="all")
        scores[problem_type] = tensors["SCORE"][0]
        logits = tensors["logits"][0]
    assert scores["single_label_classification"].sum() == pytest.approx(1)
    ranked = np.sort(logits)[::-1]
    np.testing.assert_allclose(scores["multi_label_classification"], 1 / (1 + np.exp(-ranked)), rtol=1e-5)
    np.testing.assert_allclose(scores["regression"], ranked, rtol=1e-5)


def test_maximum_length(checkpoint: Path, tmp_path: Path) -> None:
    result = quick_build(checkpoint, tmp_path, overrides=Overrides(max_length=9))
    assert result.manifest.max_length == 9
    assert read_config(tmp_path / "model").parameters["max_length"].string_value == "9"
    tensors = ask(result, "one two three four five six seven eight nine ten")
    assert tensors["input_ids"].shape == (1, 9)
    assert tensors["TRUNCATED"].all()
    with pytest.raises(InvalidInput, match="this model takes 9"):
        ask(result, "one two three four five six seven eight nine ten", truncation="error")


def test_task(checkpoint: Path, tmp_path: Path) -> None:
    result = quick_build(checkpoint, tmp_path, overrides=Overrides(task="token-classification"))
    assert result.manifest.task == "token-classification"
    assert "WORD" in ask(result, "Hello")


def test_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    (other / "model.safetensors").unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(other, do_lower_case=False)
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.save_pretrained(other)
    own = quick_build(checkpoint, tmp_path / "r")
    cased = quick_build(checkpoint, tmp_path / "r", overrides=Overrides(tokenizer=other))
    assert cased.manifest.fingerprint != own.manifest.fingerprint
    assert ask(own, "HELLO")["input_ids"].tolist() == ask(own, "hello")["input_ids"].tolist()
    assert ask(cased, "HELLO")["input_ids"].tolist() != ask(cased, "hello")["input_ids"].tolist()


def test_defaults_of_request_parameters(checkpoint: Path, tmp_path: Path) -> None:
    result = quick_build(checkpoint, tmp_path, defaults={"top_k": "2", "function_to_apply": "none"})
    tensors = ask(result, "Hello")
    assert tensors["LABEL"].shape == (1, 2)
    assert tensors["SCORE"][0].tolist() == np.sort(tensors["logits"][0])[:-3:-1].tolist()
    assert ask(result, "Hello", top_k=1)["LABEL"].shape == (1, 1)


@pytest.mark.parametrize(
    ("head", "overrides", "defaults"),
    [
        ("single", {}, {"truncation_strategy": "only_second"}),
        ("one", {"task": "reranking"}, {"truncation_strategy": "only_first"}),
        ("none", {"pooling": "mean"}, {"prompt": "query: "}),
    ],
    ids=["pairs", "documents", "prompt"],
)
def test_a_default_is_for_requests_and_not_for_what_a_build_is_judged_by(
    head: str, overrides: dict[str, Any], defaults: dict[str, str], tmp_path: Path
) -> None:
    """Where it would give other ids, or refuse."""
    made = make_checkpoint(tmp_path / "checkpoint", head)
    result = quick_build(made, tmp_path / "r", overrides=Overrides(**overrides, max_length=9), defaults=defaults)
    assert TaskSettings.read(result.model.step("tokenizer")).defaults.items() >= defaults.items()


@pytest.mark.parametrize(
    ("defaults", "rule"),
    [
        ({"top_k": "0"}, "Parameter top_k is '0'; it must be a whole number of at least 1, or \"all\"."),
        ({"truncation": "middle"}, "it must be one of error, right, left, window."),
        ({"aggregation_strategy": "first"}, "Parameter 'aggregation_strategy' is unknown."),
        ({"timeout": "3"}, "Parameter 'timeout' is unknown."),
    ],
)
def test_defaults_that_cannot_be(checkpoint: Path, tmp_path: Path, defaults: dict[str, str], rule: str) -> None:
    with pytest.raises(BuildError) as caught:
        quick_build(checkpoint, tmp_path / "r", defaults=defaults)
    assert str(caught.value).startswith("A --default cannot be. Parameter ")
    assert rule in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_the_side_that_the_checkpoint_cuts_is_the_default(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "left"))
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"truncation_side": "left"}))
    result = quick_build(folder, tmp_path / "r", overrides=Overrides(max_length=8))
    text = "one two three four five six seven eight nine ten"
    assert ask(result, text)["input_ids"].tolist() == ask(result, text, truncation="left")["input_ids"].tolist()
    own = quick_build(folder, tmp_path / "r", overrides=Overrides(max_length=8), defaults={"truncation": "right"})
    assert ask(own, text)["input_ids"].tolist() != ask(result, text)["input_ids"].tolist()


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"engine": "tensorflow"}, EngineError, f"Engine 'tensorflow' is unknown. Engines: {', '.join(ALL)}."),
        ({"precision": "int1"}, EngineError, "Engine onnxruntime has no precision 'int1'; it has fp32, int8."),
        ({"max_batch_size": 0}, BuildError, "--max-batch-size 0 must be from 1 to 16384 rows."),
        ({"max_batch_size": 16385}, BuildError, "--max-batch-size 16385 must be from 1 to 16384 rows."),
    ],
)
def test_options_that_cannot_be(
    checkpoint: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error) as caught:
        quick_build(checkpoint, tmp_path / "r", **options)
    assert str(caught.value) == sentence
    assert not (tmp_path / "r").exists()


def test_the_largest_batch(checkpoint: Path, tmp_path: Path) -> None:
    result = quick_build(checkpoint, tmp_path, max_batch_size=3)
    for name in ("model", result.manifest.steps["tokenizer"]):
        assert read_config(tmp_path / name).max_batch_size == 3
    # Three texts may be many windows, but no more texts are joined than before.
    encoder = read_config(tmp_path / result.manifest.steps["encoder"])
    assert encoder.max_batch_size == contract.MOST_ROWS
    assert list(encoder.dynamic_batching.preferred_batch_size) == [3]


# --- what is told and kept ---------------------------------------------------------------------------------------


def test_what_a_listener_hears(checkpoint: Path, tmp_path: Path) -> None:
    heard = Heard()
    quick_build(checkpoint, tmp_path, progress=heard)
    assert heard.steps == [
        "Read the checkpoint",
        "Load the weights",
        "Ask the checkpoint for reference (7)",
        "Export to ONNX",
        "Build the engine: onnxruntime fp32",
        "Compare with the checkpoint",
        "Commit",
    ]
    assert len(heard.notes) == len(heard.steps)
    assert heard.advances == 7
    heard = Heard()
    quick_build(checkpoint, tmp_path, progress=heard)
    assert heard.steps == ["Read the checkpoint", "Check the build that is there"]
    assert heard.notes[-1] == "nothing changed"


def test_the_manifest(checkpoint: Path, tmp_path: Path) -> None:
    result = quick_build(checkpoint, tmp_path, max_batch_size=4)
    manifest = result.manifest
    assert manifest == result.model.manifest()
    assert manifest.checkpoint["architecture"] == "BertForSequenceClassification"
    assert manifest.checkpoint["files"] == building_hashes(checkpoint)
    assert manifest.engine["name"] == "onnxruntime"
    assert manifest.engine["precision"] == "fp32"
    assert set(manifest.versions) == {"tritext", "torch", "transformers", "tokenizers", "onnx", "numpy"}
    assert manifest.max_batch_size == 4
    assert manifest.replaces is None
    assert manifest.created.endswith("+00:00")


def building_hashes(checkpoint: Path) -> dict[str, str]:
    return {name: digest for name, digest in snapshot(checkpoint).items() if "." in name}


def test_the_public_names() -> None:
    assert building.build.__module__ == "tritext.build.builder"
    assert building.BuildOptions.__module__ == building.BuildResult.__module__ == "tritext.build.options"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = building.nothing


def test_a_checkpoint_file_that_cannot_be_read(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("tritext.build.source.sha256", refuse)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: Permission denied\."):
        quick_build(checkpoint, tmp_path)


# --- engines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "fp32"), ("openvino", "bf16"), ("onnxruntime", "fp32")])
def test_engines(checkpoint: Path, repository: Path, tmp_path: Path, engine: str, precision: Any) -> None:
    # Random networks round worse than trained ones.
    options = {"texts": JUDGED, "bounds": Bounds(0.9, 0.5)} if precision == "bf16" else {}
    result = quick_build(checkpoint, tmp_path, engine=engine, precision=precision, **options)
    reference = committed(repository, "texts")
    assert reference is not None
    for (labels, scores), (want, expected) in zip(answers(result.model), answers(reference), strict=True):
        assert labels == want
        assert scores == pytest.approx(expected, abs=0.05 if precision == "bf16" else 2e-4)
    served = EngineSettings.read(result.model.step("encoder")).variants[0]
    assert (served.engine, served.precision) == (engine, precision)
    assert (result.manifest.engine["name"], result.manifest.engine["precision"]) == (engine, precision)
    assert engine in result.manifest.engine
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_no_engine_reports_to_anybody(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """openvino.convert_model, for one, tells its maker of every use."""
    asked = []
    monkeypatch.setattr("socket.socket.connect", lambda _self, address: asked.append(address))
    monkeypatch.setattr("openvino_telemetry.Telemetry.send_event", lambda *event: asked.append(event), raising=False)
    monkeypatch.delenv("CI", raising=False)
    for engine in ("openvino", "onnxruntime"):
        quick_build(checkpoint, tmp_path, engine=engine)
    assert asked == []


@pytest.mark.parametrize(
    ("architecture", "inputs"),
    [
        ("bert", ("input_ids", "attention_mask", "token_type_ids")),
        ("distilbert", ("input_ids", "attention_mask")),
        ("roberta", ("input_ids", "attention_mask")),
    ],
)
def test_inputs_are_those_that_model_and_tokenizer_share(
    tmp_path: Path, architecture: str, inputs: tuple[str, ...]
) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", architecture=architecture)
    result = quick_build(folder, tmp_path / "r")
    for role in ("tokenizer", "postprocess"):
        assert TaskSettings.read(result.model.step(role)).encoder_inputs == inputs
    assert EngineSettings.read(result.model.step("encoder")).inputs == inputs
    config = read_config(result.model.step("encoder").parent)
    assert tuple(tensor.name for tensor in config.input) == inputs
    wired = read_config(tmp_path / "r" / "model").ensemble_scheduling.step[1].input_map
    assert set(wired) == set(inputs)


def small_graph(folder: Path, *, external: bool) -> Graph:
    """An ONNX file that adds a constant to its input; `external`: with the constant in a file beside it."""
    folder.mkdir()
    constant = onnx.numpy_helper.from_array(np.full(300, 2, dtype=np.float32), "two")
    cast = onnx.helper.make_node("Cast", ["input_ids"], ["cast"], to=onnx.TensorProto.FLOAT)
    add = onnx.helper.make_node("Add", ["cast", "two"], ["logits"])
    ids = onnx.helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT32, [None, 300])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [None, 300])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([cast, add], "small", [ids], [logits], [constant]),
        opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(model, folder / "model.onnx", save_as_external_data=external, location="weights", size_threshold=0)
    return Graph(folder / "model.onnx", ("input_ids",))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
@pytest.mark.parametrize("external", [False, True])
def test_weights_that_lie_beside_the_graph(tmp_path: Path, engine: Engine, external: bool) -> None:
    graph = small_graph(tmp_path / "onnx", external=external)
    (tmp_path / "step").mkdir()
    artefact = engine.build(Ingredients(graph, None), "fp32", tmp_path / "step")
    assert {path.name for path in (tmp_path / "step").iterdir()} == set(artefact.parts)
    shutil.rmtree(tmp_path / "onnx")
    runner = engine.runner(tmp_path / "step" / artefact.file, FP32)
    logits = runner.run({"input_ids": np.ones((2, 300), np.int32)})
    assert logits.tolist() == np.full((2, 300), 3.0).tolist()
    kept = logits.copy()
    runner.run({"input_ids": np.zeros((2, 300), np.int32)})
    assert (logits == kept).all()  # the next call leaves it alone


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_a_graph_that_the_engine_refuses(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(ExportError, match=r"cannot (load|convert) the exported graph"):
        engine.build(Ingredients(Graph(tmp_path / "model.onnx", ("input_ids",)), None), "fp32", tmp_path)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_an_artefact_that_does_not_load(tmp_path: Path, engine: Engine) -> None:
    (tmp_path / "model.x").write_bytes(b"nonsense")
    for name in ("model.x", "missing"):
        with pytest.raises(EngineError, match=f"cannot load {tmp_path / name}"):
            engine.runner(tmp_path / name, FP32)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_an_engine_that_is_not_installed(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine.name, None)
    with pytest.raises(EngineError, match=f"is not installed here. Install it with: pip install {engine.name}"):
        engine.runner(tmp_path, FP32)
    with pytest.raises(EngineError, match="is not installed here"):
        engine.build(Ingredients(Graph(tmp_path / "model.onnx", ("input_ids",)), None), "fp32", tmp_path)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)
def test_a_call_that_the_engine_cannot_run(tmp_path: Path, engine: Engine) -> None:
    """With what a graph that was exported wrongly gives: rows that do not fit its weights."""
    artefact = engine.build(Ingredients(small_graph(tmp_path / "onnx", external=False), None), "fp32", tmp_path)
    runner = engine.runner(tmp_path / artefact.file, FP32)
    with pytest.raises(EngineError, match="cannot run the model: "):
        runner.run({"input_ids": np.ones((2, 299), np.int32)})


def test_engines_by_name() -> None:
    assert [engine_named(engine.name) for engine in ENGINES] == list(ENGINES)


def test_a_text_is_answered_alike_alone_and_in_company(checkpoint: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.load(quick_build(checkpoint, tmp_path).model)
    together = pipeline.run([Request(text_inputs(list(TEXTS)))])[0]
    merged = pipeline.run([Request(text_inputs([text])) for text in TEXTS])
    assert isinstance(together, Trace)
    for index, trace in enumerate(merged):
        assert isinstance(trace, Trace)
        np.testing.assert_allclose(trace.tensors["logits"][0], together.tensors["logits"][index], atol=1e-5)


def test_what_padding_would_change_is_only_built_packed(tmp_path: Path) -> None:
    folder = checkpoints.make(tmp_path / "c", MORE_ARCHITECTURES["mobilebert"], HEADS["single"])
    expected = r"MobileBERT's embeddings see the padding behind a text.* Leave --batching at packed"
    with pytest.raises(ExportError, match=expected):
        quick_build(folder, tmp_path / "repository", engine="tensorrt", batching="buckets")


def test_texts_whose_mask_is_cut_off_do_not_judge_a_build(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", "masked")
    built = quick_build(folder, tmp_path / "repository", overrides=Overrides(max_length=8))
    assert 0 < built.manifest.parity["texts"] < len(TEXTS) * 2
