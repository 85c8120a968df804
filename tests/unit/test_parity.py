"""The parity gate: whatever is wrong with a build, nothing is committed, and the worst text is shown."""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import checkpoints
from building import JUDGED, PAIRS, TEXTS, make_checkpoint, quick_build, snapshot
from tritext.build import BuildOptions, build, parity, weights
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.source import locate
from tritext.build.texts import parity_texts
from tritext.build.weights import load_model
from tritext.engines.onnxruntime import OnnxRuntime, OnnxRuntimeRunner
from tritext.errors import BuildError, ExportError, ParityError
from tritext.manifest import Example
from tritext.repository import committed, models
from tritext.settings import TaskSettings
from tritext.tasks.question_answering import QuestionAnsweringTask
from tritext.text.tokenizer import TextTokenizer

Arrays = dict[str, NDArray[np.int32]]
Logits = NDArray[np.float32]

real_run = OnnxRuntimeRunner.run


def sizes(arrays: Arrays) -> NDArray[Any]:
    """The length of each text of a call that gives logits by text, in their order."""
    if "attention_mask" in arrays:
        return arrays["attention_mask"].sum(axis=1)
    segments = arrays["segment_ids"]
    first = arrays["first_tokens"]
    return np.array([(segments[at // segments.shape[1]] == segments.flat[at]).sum() for at in first])


def spoilt(
    inputs: Callable[[Arrays], Arrays] = lambda arrays: arrays, outputs: Callable[[Logits], Logits] = lambda out: out
) -> Callable[..., Logits]:
    """An engine that changes what goes in or comes out."""

    def run(self: OnnxRuntimeRunner, arrays: Mapping[str, NDArray[np.int32]]) -> Logits:
        return outputs(np.array(real_run(self, inputs(dict(arrays)))))

    return run


def mask_dropped(arrays: Arrays) -> Arrays:
    """What tells texts from their neighbours, or from padding."""
    return arrays | {name: np.ones_like(arrays[name]) for name in ("segment_ids", "attention_mask") if name in arrays}


def types_dropped(arrays: Arrays) -> Arrays:
    return arrays | {"token_type_ids": np.zeros_like(arrays["token_type_ids"])}


def order_lost(logits: Logits) -> Logits:
    return logits[::-1, ::-1] if logits.ndim == 3 else logits[::-1]


def one_nan(logits: Logits) -> Logits:
    logits.flat[0] = np.nan
    return logits


def slightly_off(logits: Logits) -> Logits:
    return logits * np.float32(1.001)


ENGINES = {
    "mask": spoilt(inputs=mask_dropped),
    "types": spoilt(inputs=types_dropped),
    "order": spoilt(outputs=order_lost),
    "NaN": spoilt(outputs=one_nan),
    "slightly off": spoilt(outputs=slightly_off),
}


@pytest.mark.parametrize(
    ("head", "engine"),
    [  # single texts have one type of tokens
        *(("checkpoint", engine) for engine in ENGINES),
        *(("token_checkpoint", engine) for engine in ENGINES if engine != "types"),
    ],
)
def test_an_engine_that_is_wrong(
    head: str, engine: str, repository: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = request.getfixturevalue(head)
    before = snapshot(repository)
    monkeypatch.setattr(OnnxRuntimeRunner, "run", ENGINES[engine])
    with pytest.raises(ParityError) as caught:
        quick_build(checkpoint, repository, "texts", force=True)
    text = str(caught.value)
    assert "The pipeline's logits differ from the checkpoint's by up to" in text
    assert "allowed in fp32; the worst text is '" in text
    assert snapshot(repository) == before


def test_the_worst_text_is_the_worst(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One text's logits alone are NaN, or far off; a NaN counts as farther than anything."""

    def off(amount: float) -> Callable[..., Logits]:
        def run(self: OnnxRuntimeRunner, arrays: Arrays) -> Logits:
            logits = real_run(self, arrays)
            empty = sizes(arrays) == 2  # "" is [CLS] [SEP]
            logits[empty] += amount
            logits[~empty] += 1.0
            return logits

        return run

    for amount in (7.0, np.nan):
        monkeypatch.setattr(OnnxRuntimeRunner, "run", off(amount))
        with pytest.raises(ParityError, match="the worst text is ''") as caught:
            quick_build(checkpoint, tmp_path, "m")
        assert ("by up to 7" if amount == 7.0 else "by up to inf") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_perturbed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OnnxRuntime.build

    def build(self: OnnxRuntime, ingredients: Any, *others: Any) -> Any:
        path = ingredients.graph.path
        model = onnx.load(path)
        largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        noise = np.random.default_rng(0).normal(1.0, 0.01, numpy_helper.to_array(largest).shape)
        array = numpy_helper.to_array(largest) * noise.astype(np.float32)
        largest.CopyFrom(numpy_helper.from_array(array, largest.name))
        onnx.save(model, path)
        return real(self, ingredients, *others)

    monkeypatch.setattr(OnnxRuntime, "build", build)
    with pytest.raises(ParityError, match="logits differ"):
        quick_build(checkpoint, tmp_path, "m")
    assert list(tmp_path.iterdir()) == []


def test_another_shape(token_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeRunner, "run", spoilt(outputs=lambda logits: logits[..., :1]))
    with pytest.raises(ParityError, match=r"have the shape \(\d+, 1\), the checkpoint's \(\d+, 7\)"):
        quick_build(token_checkpoint, tmp_path, "m")


def test_an_engine_that_raises(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any) -> Logits:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(OnnxRuntimeRunner, "run", run)
    with pytest.raises(ParityError, match=f"The pipeline fails on '{TEXTS[0]}': no such kernel"):
        quick_build(checkpoint, tmp_path, "m")
    assert "Traceback" not in capfd.readouterr().err


def test_a_tokenizer_that_is_wrong(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = TextTokenizer.encode
    monkeypatch.setattr(
        TextTokenizer, "encode", lambda self, texts, *rest: real(self, [_longer(text) for text in texts], *rest)
    )
    with pytest.raises(ParityError, match=r"The token ids of '.*' are not the checkpoint's: \[") as caught:
        quick_build(checkpoint, tmp_path, "m")
    assert " instead of [" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def _longer(text: Any) -> Any:
    return f"{text} too" if isinstance(text, str) else text


@pytest.mark.parametrize("swap", [lambda pair: (pair[1], pair[0]), lambda pair: pair[0]], ids=["swapped", "dropped"])
def test_pairs_are_judged_too(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Any], Any]
) -> None:
    real = TextTokenizer.encode

    def encode(self: TextTokenizer, texts: Any, *rest: Any) -> Any:
        return real(self, [text if isinstance(text, str) else swap(text) for text in texts], *rest)

    monkeypatch.setattr(TextTokenizer, "encode", encode)
    with pytest.raises(ParityError, match=f"{PAIRS[0][0]} | {PAIRS[0][1]}"):
        quick_build(checkpoint, tmp_path, "m")


def test_a_checkpoint_that_gives_no_numbers(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritext.build import builder

    def load(facts: Any) -> Any:
        model = weights.load_model(facts)
        model.classifier.bias.data[0] = np.nan
        return model

    monkeypatch.setattr(builder, "load_model", load)
    with pytest.raises(ParityError, match=r"The checkpoint itself, in PyTorch in fp32, gives no finite logits"):
        quick_build(checkpoint, tmp_path, "m")


def test_a_graph_that_cannot_be_exported(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Unsupported: prim::Magic\nmany\nlines")

    monkeypatch.setattr("torch.onnx.export", refuse)
    with pytest.raises(ExportError) as caught:
        quick_build(checkpoint, tmp_path, "m")
    expected = "BertForSequenceClassification cannot be exported to ONNX: Unsupported: prim::Magic"
    assert str(caught.value) == expected


# --- what is kept of a comparison --------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "task"), [("spans", None), ("one", "reranking"), ("masked", None)])
def test_all_of_our_texts_can_be_asked(head: str, task: str | None, tmp_path: Path) -> None:
    made = locate(str(make_checkpoint(tmp_path / "made", head)))
    options = BuildOptions("it", tmp_path / "r", engine="onnxruntime", precision="fp32", overrides=Overrides(task=task))
    assert build(made, options).manifest.parity["texts"] >= 40


def test_a_tokenizer_that_gives_types_to_a_model_that_has_one(tmp_path: Path) -> None:
    """As klue/roberta's: BERT's tokenizer, which numbers a pair's texts, before a RoBERTa, which does not."""
    bert, roberta = checkpoints.ARCHITECTURES["bert"], checkpoints.ARCHITECTURES["roberta"]
    made = replace(roberta, tokenizer_class=bert.tokenizer_class, vocabulary=bert.vocabulary)
    built = quick_build(checkpoints.make(tmp_path / "made", made, checkpoints.HEADS["single"]), tmp_path / "repository")
    assert built.manifest.parity["texts"] == len(TEXTS) + len(PAIRS)
    assert "token_type_ids" not in TaskSettings.read(built.model.step("tokenizer")).encoder_inputs


def test_texts_that_have_no_token_are_left_out_of_the_reference(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))  # no special tokens
    plain = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 128}
    (folder / "tokenizer_config.json").write_text(json.dumps(plain))
    facts, tokenizer = inspect(locate(str(folder)), Overrides())
    counted: list[None] = []
    found = parity.reference(load_model(facts), tokenizer, facts, ["", "a", " "], lambda: counted.append(None))
    assert ([each.text for each in found], len(counted)) == (["a"], 3)


def test_the_figures_are_in_the_manifest(repository: Path) -> None:
    for model in models(repository):
        found = model.manifest().parity
        count = len(TEXTS) + (len(PAIRS) if model.name == "texts" else 0)
        tokens = sum(len(example.input_ids) for example in model.reference())
        assert (found["texts"], found["tokens"]) == (count, tokens)
        assert found["labels"] == found["labels_agree"] == (count if model.name == "texts" else tokens)
        assert 0 < found["max_logit_difference"] < found["tolerance"]["logits"] < 0.01
        assert 0 < found["mean_logit_difference"] <= found["max_logit_difference"]
        assert 0 < found["max_score_difference"] < 1e-4
        assert found["near_ties"] == 0
        assert found["worst_text"]


def test_the_reference_is_the_checkpoints_own(repository: Path, checkpoint: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, attn_implementation="eager")
    found = committed(repository, "texts")
    assert found is not None
    reference = found.reference()
    assert [(example.text, example.pair) for example in reference] == [*((text, None) for text in TEXTS), *PAIRS]
    for example in reference:
        item = example.text if example.pair is None else (example.text, example.pair)
        encoded = tokenizer([item], truncation=True, max_length=128, return_tensors="pt")
        assert example.input_ids.tolist() == encoded["input_ids"][0].tolist()
        assert example.token_type_ids.tolist() == encoded["token_type_ids"][0].tolist()
        with torch.inference_mode():
            np.testing.assert_allclose(example.logits, model(**encoded).logits[0].numpy(), atol=1e-6)


def test_precision_decides_what_is_allowed(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is off by 1 % passes as bf16 and not as fp32. That all scores are right is not enough."""
    monkeypatch.setattr(OnnxRuntime, "precisions", ("fp32", "bf16"))
    monkeypatch.setattr(OnnxRuntimeRunner, "run", spoilt(outputs=lambda logits: logits * np.float32(1.01)))
    with pytest.raises(ParityError, match=r"allowed in fp32; .* Try the other --engine, and report this"):
        quick_build(checkpoint, tmp_path, "m")
    found = quick_build(checkpoint, tmp_path, "m", precision="bf16", texts=JUDGED).manifest.parity
    assert 1e-3 < found["max_logit_difference"] < found["tolerance"]["logits"]
    monkeypatch.setattr(OnnxRuntimeRunner, "run", spoilt(outputs=lambda logits: logits + np.float32(5)))
    with pytest.raises(ParityError, match=r"allowed in bf16; .* Build with --precision fp32\."):
        quick_build(checkpoint, tmp_path, "m", precision="bf16", texts=JUDGED, force=True)


def example(logits: Any) -> Example:
    return Example("t", None, np.zeros(1, np.int32), np.zeros(1, np.int32), np.array(logits, np.float32))


def test_the_texts_are_of_many_scripts_and_lengths() -> None:
    single = parity_texts(pairs=False)
    assert all(isinstance(text, str) for text in single)
    assert len(single) >= 40
    letters = "".join(text for text in single if isinstance(text, str))
    for sample in "éß", "Жд", "人", "の", "한", "ع", "ש", "ह", "ก":
        assert any(letter in letters for letter in sample), sample
    assert any(ord(letter) > 0x1F000 for letter in letters)
    assert "" in single
    assert max(map(len, single)) > 5000
    pairs = [item for item in parity_texts(pairs=True) if isinstance(item, tuple)]
    assert any(not second for _, second in pairs)
    assert any(len(first) > 500 < len(second) for first, second in pairs)


def test_long_texts_are_cut_for_the_message() -> None:
    long = Example("x" * 100, "y", *(np.zeros(1, np.int32),) * 2, np.zeros(1, np.float32))
    assert parity._quote(long) == "'" + "x" * 57 + "…'"
    assert parity._quote(example([0])) == "'t'"


def test_a_question_that_fills_the_model_alone_is_left_out(tmp_path: Path) -> None:
    """It is refused when served, too; transformers raises a bare Exception."""
    made = checkpoints.make(tmp_path / "checkpoint", checkpoints.ARCHITECTURES["roberta"], checkpoints.HEADS["spans"])
    facts, tokenizer = inspect(locate(str(made)), Overrides())
    told: list[None] = []
    found = parity.reference(
        load_model(facts), tokenizer, facts, [("ค" * 80, "short"), ("who?", "she")], lambda: told.append(None)
    )
    assert [(each.text, each.pair) for each in found] == [("who?", "she")]
    assert len(told) == 2


@pytest.mark.parametrize("length", [8, 16, 24])
def test_questions_are_asked_of_models_that_take_few_tokens(length: int, tmp_path: Path) -> None:
    made = locate(str(make_checkpoint(tmp_path / "made", "spans")))
    options = BuildOptions(
        "it", tmp_path / "r", engine="onnxruntime", precision="fp32", overrides=Overrides(max_length=length)
    )
    assert build(made, options).manifest.parity["texts"] > 1


@pytest.mark.parametrize(
    ("precision", "cure"), [("fp32", "Give another"), ("auto", "Give other ones with --texts, or another")]
)
def test_a_model_that_has_room_for_no_text_is_refused_before_any_work(
    precision: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_checkpoint(tmp_path / "made", "spans")
    if precision == "fp32":  # of the texts that any build is compared by, some are short enough
        monkeypatch.setattr(
            QuestionAnsweringTask, "references", lambda *_: [("a question of too many words", "a context")]
        )
    monkeypatch.setattr("tritext.build.builder.load_model", lambda _: pytest.fail("it was loaded"))
    options = BuildOptions(
        "it", tmp_path / "r", engine="onnxruntime", precision=precision, overrides=Overrides(max_length=8)
    )
    with pytest.raises(BuildError) as caught:
        build(locate(str(made)), options)
    assert re.fullmatch(
        r"None of \d+ texts can be asked: the model's 8 tokens leave no room for what question-answering needs\. "
        rf"{cure} --max-length\.",
        str(caught.value),
    )
    assert not (tmp_path / "r").exists()
