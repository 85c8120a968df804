"""An encoder that is wrong on the machine that serves takes the next way to run, or says why it cannot."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from building import JUDGED, TEXTS, quick_build, text_inputs
from tritext.build.gate import Bounds
from tritext.engines.machine import processor_lacks
from tritext.errors import EngineError, RepositoryError
from tritext.manifest import CHECK, Example, read_reference, write_reference
from tritext.pipeline import Pipeline, Trace
from tritext.repository import BuiltModel
from tritext.settings import EngineSettings
from tritext.stages.base import Request
from tritext.stages.encoder import EncoderStage

LOOSE = Bounds(0.0, 1.0)  # how good they are is not the question here
BUILT = [
    pytest.param(engine, precision, marks=pytest.mark.skipif(bool(processor_lacks(precision)), reason="not here"))
    for engine, precision in (("onnxruntime", "int8"), ("openvino", "bf16"))
]

Encoder = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def built(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], BuiltModel]:
    """The model of an engine in a precision, with fp32 to fall back to."""
    known: dict[tuple[str, str], BuiltModel] = {}

    def get(engine: str, precision: Any) -> BuiltModel:
        if (engine, precision) not in known:
            folder = tmp_path_factory.mktemp(precision)
            options: dict[str, Any] = {"engine": engine, "precision": precision, "texts": JUDGED, "bounds": LOOSE}
            known[engine, precision] = quick_build(checkpoint, folder, "m", **options).model
        return known[engine, precision]

    return get


@pytest.fixture
def encoder(built: Callable[[str, str], BuiltModel], tmp_path: Path) -> Encoder:
    """A copy of a model's encoder step, which may be spoilt."""

    def get(engine: str, precision: str) -> Path:
        step = built(engine, precision).step("encoder")
        return Path(shutil.copytree(step, tmp_path / "m_encoder_0123abcd" / "1"))

    return get


def runs_as(stage: EncoderStage, folder: Path) -> str:
    """The precision whose answers `stage` gives, to the bit."""
    settings = EngineSettings.read(folder)
    (own,) = logits(stage)
    names = [
        variant.precision for variant in settings.variants
        if np.array_equal(own, logits(EncoderStage.of(settings, variant, folder))[0])
    ]  # fmt: skip
    assert len(names) == 1, names
    return names[0]


def logits(stage: EncoderStage) -> list[np.ndarray]:
    ids = np.arange(5, 45, dtype=np.int32)[None]
    request = Request({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)})
    return [answer["logits"] for answer in stage.process([request]) if isinstance(answer, dict)]


def with_settings(folder: Path, change: Callable[[EngineSettings], EngineSettings]) -> None:
    change(EngineSettings.read(folder)).write(folder)


def first_variant(**changes: Any) -> Callable[[EngineSettings], EngineSettings]:
    def change(settings: EngineSettings) -> EngineSettings:
        first, *others = settings.variants
        return replace(settings, variants=(replace(first, **changes), *others))

    return change


def with_reference(folder: Path, change: Callable[[Example], Example]) -> list[Example]:
    examples = [change(example) for example in read_reference(folder, CHECK)]
    write_reference(folder, examples, CHECK)
    return examples


@pytest.mark.parametrize(("engine", "precision"), BUILT)
def test_what_was_built_runs_without_a_word(
    engine: str, precision: str, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = encoder(engine, precision)
    stage = EncoderStage.load(folder)
    assert not any(stage.counts.values())  # its own questions are nobody's traffic
    assert runs_as(stage, folder) == precision
    assert not caplog.records


@pytest.mark.parametrize(("engine", "precision"), BUILT)
def test_a_processor_without_the_instructions(
    engine: str, precision: str, encoder: Encoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = encoder(engine, precision)
    monkeypatch.setattr("tritext.engines.machine.processor_flags", lambda: frozenset({"avx2", "fma"}))
    stage = EncoderStage.load(folder)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"m_encoder_0123abcd runs as {engine} fp32 here, not as built. ")
    assert f"{engine} {precision}: It cannot run here: this processor (" in record.getMessage()
    assert "has none of avx" in record.getMessage()
    monkeypatch.undo()
    assert runs_as(stage, folder) == "fp32"


def test_the_fallback_gives_the_checkpoints_answers(
    built: Callable[[str, str], BuiltModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built("onnxruntime", "int8")
    monkeypatch.setattr("tritext.engines.machine.processor_flags", lambda: frozenset({"avx2"}))
    traces = Pipeline.load(model).run([Request(text_inputs([text])) for text in TEXTS])
    for trace, example in zip(traces, model.reference(), strict=False):
        assert isinstance(trace, Trace)
        np.testing.assert_allclose(trace.tensors["logits"][0], example.logits, atol=1e-3)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "answers": (
        lambda folder: with_settings(folder, first_variant(tolerance=1e-9)),
        r"It is wrong on this machine: for the text '.*' its logits differ by [\d.e-]+ from .*, and 1e-09 is allowed",
    ),
    "no file": (lambda folder: (folder / "model.int8.onnx").unlink(), "ONNX Runtime cannot load .*model.int8.onnx"),
    "half a file": (
        lambda folder: (folder / "model.int8.onnx").write_bytes((folder / "model.int8.onnx").read_bytes()[:5000]),
        "ONNX Runtime cannot load .*model.int8.onnx",
    ),
    "another engine": (lambda folder: with_settings(folder, first_variant(engine="x")), "Engine 'x' is unknown"),
    "another precision": (
        lambda folder: with_settings(folder, first_variant(precision="int2")), "Engine onnxruntime has no int2"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILT)
def test_what_does_not_run_rightly_gives_way_to_fp32(
    what: str, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = encoder("onnxruntime", "int8")
    intact = logits(EncoderStage.of(read := EngineSettings.read(folder), read.variants[1], folder))
    spoil, reason = SPOILT[what]
    spoil(folder)
    stage = EncoderStage.load(folder)
    assert np.array_equal(logits(stage), intact)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(reason, record.getMessage())
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("amount", [100.0, np.nan])
def test_where_none_agrees_the_step_does_not_start(amount: float, encoder: Encoder) -> None:
    """And says of each: the text, how far off, and what is allowed."""
    folder = encoder("onnxruntime", "int8")
    text = "x" * 70
    examples = with_reference(
        folder, lambda example: replace(example, text=text, pair=None, logits=example.logits + np.float32(amount))
    )
    assert len(examples) > 1
    with pytest.raises(EngineError) as caught:
        EncoderStage.load(folder)
    said = str(caught.value)
    assert said.startswith("No engine of this model runs on this machine. onnxruntime int8: It is wrong")
    assert "onnxruntime fp32: It is wrong on this machine: for the text '" in said
    assert said.count(f"for the text '{'x' * 59}…'") == 2
    far = "nan" if np.isnan(amount) else r"1\d\d|9\d\.\d"
    tolerances = [f"{variant.tolerance:.3g}" for variant in EngineSettings.read(folder).variants]
    for tolerance in tolerances:
        assert re.search(rf"differ by ({far}) from the checkpoint's, and {re.escape(tolerance)} is allowed\.", said)


def test_a_pair_is_shown_as_one(encoder: Encoder) -> None:
    folder = encoder("onnxruntime", "int8")
    with_reference(folder, lambda example: replace(example, text="a", pair="b", logits=example.logits + 100))
    with pytest.raises(EngineError, match=r"for the text 'a \| b' its logits"):
        EncoderStage.load(folder)


def test_logits_of_another_shape_are_wrong(encoder: Encoder) -> None:
    folder = encoder("onnxruntime", "int8")
    with_reference(folder, lambda example: replace(example, logits=example.logits[:2]))
    with pytest.raises(EngineError, match="differ by inf"):
        EncoderStage.load(folder)


def test_one_wrong_text_of_several_is_enough_and_is_the_one_shown(encoder: Encoder) -> None:
    folder = encoder("onnxruntime", "int8")
    last = read_reference(folder, CHECK)[-1]
    assert last.pair is not None
    with_reference(
        folder, lambda example: replace(example, logits=example.logits * (-9 if example.text == last.text else 1))
    )
    with pytest.raises(EngineError) as caught:
        EncoderStage.load(folder)
    assert str(caught.value).count(f"It is wrong on this machine: for the text '{last.text[:59]}") == 2


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PK")])
def test_no_reference_is_a_damaged_repository(spoil: Callable[[Path], object], encoder: Encoder) -> None:
    folder = encoder("onnxruntime", "int8")
    spoil(folder / CHECK)
    with pytest.raises(RepositoryError, match=r"check\.npz cannot be read .* Build the model again"):
        EncoderStage.load(folder)


@pytest.mark.parametrize("layout", [{}, {"kind": "x"}, {"kind": "packed", "columns": 3}])
def test_a_layout_that_is_none_is_a_damaged_repository(layout: dict[str, Any], encoder: Encoder) -> None:
    folder = encoder("onnxruntime", "int8")
    with_settings(folder, first_variant(layout=layout))
    with pytest.raises(RepositoryError, match=r"has a layout that cannot be read\. Build the model again"):
        EncoderStage.load(folder)


@pytest.mark.parametrize("variants", [3, [3], [{"engine": "x"}], None])
def test_variants_that_are_none_are_a_damaged_repository(variants: Any, encoder: Encoder) -> None:
    folder = encoder("onnxruntime", "int8")
    path = folder / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "variants": variants}))
    with pytest.raises(RepositoryError, match=r"settings\.json cannot be read .* Build the model again"):
        EncoderStage.load(folder)
