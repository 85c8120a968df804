"""Choosing engine and precision: the fastest that passes, nothing that fails, and a table of what was tried."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from building import JUDGED, TEXTS, answers, make_checkpoint, quick_build, snapshot
from tritext.build.candidates import Contest
from tritext.build.checkpoint import Overrides
from tritext.build.gate import Bounds
from tritext.build.judging import _parted
from tritext.build.options import Batching
from tritext.build.texts import paragraphs
from tritext.engines import ENGINES, engine_named
from tritext.engines.base import Ingredients
from tritext.engines.machine import processor_lacks
from tritext.engines.openvino import OpenVino
from tritext.errors import BuildError, EngineError, ExportError
from tritext.manifest import CHECK, read_reference
from tritext.repository import BuiltModel
from tritext.settings import EngineSettings
from tritext.stages.base import Request
from tritext.stages.encoder import EncoderStage

needs_int8 = pytest.mark.skipif(bool(processor_lacks("int8")), reason="this processor has no int8 products")
# Random networks round worse than trained ones; nearly all of their answers must be right all the same.
LOOSE = Bounds(0.8, 0.6)
EXACT = Bounds(1.0, 1e-4)  # what fp32 does and int8 does not


def settings_of(model: BuiltModel) -> EngineSettings:
    return EngineSettings.read(model.step("encoder"))


def fastest_first(monkeypatch: pytest.MonkeyPatch, *precisions: str) -> None:
    """Let the clock say that the precisions are fast in this order."""

    def times(
        _self: Contest, stages: Sequence[EncoderStage], _requests: Sequence[Request], rounds: int
    ) -> list[list[float]]:
        return [[1.0 + precisions.index(stage._settings.variants[0].precision)] * rounds for stage in stages]

    monkeypatch.setattr(Contest, "_times", times)


# --- what is chosen ----------------------------------------------------------------------------------------------


def test_one_candidate_is_chosen_and_the_table_tells_why(checkpoint: Path, tmp_path: Path) -> None:
    result = quick_build(checkpoint, tmp_path, engine="openvino", precision="auto", texts=JUDGED, bounds=LOOSE)
    table = result.manifest.candidates
    assert result.model.manifest() == result.manifest
    assert json.loads(result.manifest.to_json())["candidates"] == list(table)
    assert {(each["engine"], each["precision"]) for each in table} == {
        ("openvino", precision) for precision in OpenVino.precisions
    }
    (chosen,) = [each for each in table if each["chosen"]]
    assert chosen["verdict"] == "chosen"
    assert (result.manifest.engine["name"], result.manifest.engine["precision"]) == ("openvino", chosen["precision"])
    served = settings_of(result.model).variants[0]
    assert (served.engine, served.precision) == ("openvino", chosen["precision"])
    assert chosen["accuracy"]["agreement"] >= LOOSE.agreement
    assert chosen["accuracy"]["drift"] <= LOOSE.drift
    speeds = [each["tokens_per_second"] or 0.0 for each in table]
    assert speeds == sorted(speeds, reverse=True)
    for each in table:
        if each["tokens_per_second"] is None:
            assert each["verdict"].startswith("not here: this processor")
        else:
            assert each["megabytes"] > 0
            assert each["verdict"]
    # Nothing that is faster was passed over without its figures.
    for each in table[: table.index(chosen)]:
        assert each["accuracy"]["agreement"] < LOOSE.agreement or each["accuracy"]["drift"] > LOOSE.drift
    assert len(answers(result.model)) == len(TEXTS)


@needs_int8
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_what_fails_is_not_chosen_however_fast(
    engine: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest_first(monkeypatch, "int8", "bf16", "fp32")
    result = quick_build(checkpoint, tmp_path, engine=engine, precision="auto", texts=JUDGED, bounds=EXACT)
    first, *_, last = result.manifest.candidates
    assert (first["precision"], first["chosen"]) == ("int8", False)
    assert "agree, 100.00% are needed" in first["verdict"] or "0.0001 is allowed" in first["verdict"]
    assert (last["precision"], last["chosen"]) == ("fp32", True)
    assert [variant.precision for variant in settings_of(result.model).variants] == ["fp32"]
    there = {path.name for path in result.model.step("encoder").iterdir()}
    assert not [name for name in there if "int8" in name]


@pytest.mark.parametrize("batching", ["packed", "buckets"])
@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_quantised_plan_is_calibrated_and_judged_on_the_cpu(
    batching: Batching, precision: str, checkpoint: Path, tmp_path: Path
) -> None:
    options = {"engine": "tensorrt", "precision": precision, "batching": batching, "texts": JUDGED}
    with pytest.raises(BuildError, match=f"tensorrt {precision}: .*(agree|drift)"):
        quick_build(checkpoint, tmp_path, **options, bounds=EXACT)
    result = quick_build(checkpoint, tmp_path, **options, bounds=Bounds(0.0, float("inf")))
    (chosen,) = result.manifest.candidates
    assert (chosen["precision"], chosen["verdict"], chosen["tokens_per_second"]) == (precision, "chosen", None)
    assert 0.0 < chosen["accuracy"]["drift"] < 1.0


def test_auto_takes_half_precision_for_a_plan_or_what_is_next(checkpoint: Path, tmp_path: Path) -> None:
    options = {"engine": "tensorrt", "precision": "auto", "texts": JUDGED}
    first, *others = quick_build(checkpoint, tmp_path, **options, bounds=LOOSE).manifest.candidates
    assert (first["precision"], first["verdict"]) == ("fp16", "chosen")
    assert [(each["precision"], each["verdict"]) for each in others] == [("bf16", "not needed"), ("fp32", "not needed")]
    exact = quick_build(checkpoint, tmp_path, **options, bounds=EXACT).manifest.candidates
    assert [each["precision"] for each in exact if each["chosen"]] == ["fp32"]


@needs_int8
def test_what_is_slower_is_not_judged(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fastest_first(monkeypatch, "fp32", "int8")
    result = quick_build(checkpoint, tmp_path, precision="auto", texts=JUDGED)
    first, second = result.manifest.candidates
    assert (first["precision"], first["verdict"]) == ("fp32", "chosen")
    assert (second["precision"], second["verdict"], second["accuracy"]) == ("int8", "slower", None)


def test_where_none_passes_all_are_named_with_their_figures(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_build(checkpoint, tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(BuildError) as caught:
        quick_build(checkpoint, tmp_path, engine="auto", precision="auto", texts=JUDGED, bounds=Bounds(1.1, 0.0))
    said = str(caught.value)
    assert said.startswith("No way to run this model passes the gate (")
    for engine in (each for each in ENGINES.values() if each.automatic()):
        for precision in engine.precisions:
            verdict = said.split(f"{engine.name} {precision}: ", 1)[1]
            assert re.match(r"\d+\.\d\d% of labels agree, 110\.00% are needed|not here: |fails: ", verdict), verdict
    for choice in ("--engine", "--precision", "--texts", "--min-agreement", "--max-drift"):
        assert choice in said
    assert snapshot(tmp_path) == before


@needs_int8
def test_a_candidate_that_cannot_be_built_or_run_leaves_the_others(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = OpenVino.build

    def build(self: OpenVino, ingredients: Ingredients, precision: Any, folder: Path) -> Any:
        if precision == "int8":
            raise ExportError("NNCF cannot quantise the graph: of its own")
        return real(self, ingredients, precision, folder)

    monkeypatch.setattr(OpenVino, "build", build)
    result = quick_build(checkpoint, tmp_path, engine="openvino", precision="auto", texts=JUDGED, bounds=LOOSE)
    (int8,) = [each for each in result.manifest.candidates if each["precision"] == "int8"]
    assert int8["verdict"] == "fails: NNCF cannot quantise the graph: of its own"
    assert int8["tokens_per_second"] is None
    assert result.manifest.engine["precision"] != "int8"


def test_a_precision_that_no_engine_has(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"Engine auto has no precision 'int1'; it has .*fp32.*int8"):
        quick_build(checkpoint, tmp_path, engine="auto", precision="int1")


# --- int8 by name ------------------------------------------------------------------------------------------------


@needs_int8
@pytest.mark.parametrize("head", ["checkpoint", "token_checkpoint"])
def test_int8_by_name_is_refused_by_its_figures(head: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(head)
    with pytest.raises(BuildError, match=r"passes the gate \(onnxruntime int8: (\d|scores drift by)"):
        quick_build(made, tmp_path, precision="int8", texts=JUDGED, bounds=EXACT)
    assert list(tmp_path.iterdir()) == []


@needs_int8
@pytest.mark.parametrize(
    ("engine", "head"), [("openvino", "checkpoint"), ("onnxruntime", "checkpoint"), ("onnxruntime", "token_checkpoint")]
)
def test_int8_passes_where_less_is_accepted_and_has_fp32_beside_it(
    engine: str, head: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue(head)
    result = quick_build(made, tmp_path, engine=engine, precision="int8", texts=JUDGED, bounds=LOOSE)
    (row,) = result.manifest.candidates
    print(engine, head, row["accuracy"])
    assert row["chosen"]
    assert (result.manifest.engine["name"], result.manifest.engine["precision"]) == (engine, "int8")
    served, fallback = settings_of(result.model).variants
    assert (served.precision, fallback.precision) == ("int8", "fp32")
    assert fallback.tolerance < served.tolerance
    folder = result.model.step("encoder")
    files = [folder / variant.artefact for variant in (served, fallback)]
    weights = [path.with_suffix(".bin") if path.suffix == ".xml" else path for path in files]
    assert weights[0].stat().st_size < weights[1].stat().st_size
    assert result.model.damage() == []
    assert 0 < len(read_reference(folder, CHECK)) <= 6
    assert len(answers(result.model)) == len(TEXTS)


@needs_int8
def test_int8_bears_that_only_some_tokens_get_through_the_last_layer(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the last attention nothing is rounded to int8, or OpenVINO would be wrong about it."""
    drift = {}
    for way in ("picked", "whole"):
        made = quick_build(
            checkpoint, tmp_path / way, engine="openvino", precision="int8", texts=JUDGED, bounds=Bounds(0.0, 2.0)
        )
        drift[way] = made.manifest.candidates[0]["accuracy"]["mean_drift"]
        monkeypatch.setattr("tritext.build.export.pick_early", lambda _: ())
    assert drift["picked"] < drift["whole"]


def test_bounds_and_texts_are_part_of_what_was_asked_for(checkpoint: Path, tmp_path: Path) -> None:
    prints = {
        quick_build(checkpoint, tmp_path / str(number), **options).manifest.fingerprint
        for number, options in enumerate(
            [{}, {"texts": JUDGED}, {"texts": JUDGED[1:]}, {"bounds": Bounds(0.9)}, {"bounds": Bounds(0.995, 0.2)}]
        )
    }
    assert len(prints) == 5


# --- the texts ---------------------------------------------------------------------------------------------------


@given(st.integers(8, 5000))
def test_calibrated_on_some_judged_on_others_all_over_the_file(number: int) -> None:
    texts = [f"text {index}" for index in range(number)]
    calibrating, judged = _parted(texts)
    assert not set(calibrating) & set(judged)
    assert 0 < len(calibrating) <= 96
    assert 0 < len(judged) <= 320
    for part in (calibrating, judged):
        assert len(set(part)) == len(part)
        assert texts.index(part[0]) <= number / 3
        assert texts.index(part[-1]) >= number * 2 / 3


def test_the_same_text_is_not_on_both_sides() -> None:
    calibrating, judged = _parted([text for text in JUDGED for _ in range(4)])
    assert not set(calibrating) & set(judged)
    with pytest.raises(EngineError, match="2 different texts are too few"):
        _parted(["a", "b"] * 100)


@pytest.mark.parametrize("number", [1, 7])
def test_too_few_texts(number: int, checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        quick_build(checkpoint, tmp_path, precision="auto", texts=JUDGED[:number])
    assert str(caught.value) == (
        f"{number} different texts are too few to choose a precision by. Give at least 8, better several hundred, or "
        "leave nothing to choose: one --engine, such as openvino, with --precision fp32."
    )
    assert list(tmp_path.iterdir()) == []
    assert quick_build(checkpoint, tmp_path, texts=JUDGED[:number]).changed  # fp32 needs none


@needs_int8
def test_pairs_for_a_task_that_takes_none_are_refused(token_checkpoint: Path, tmp_path: Path) -> None:
    texts = [(text, "second") for text in JUDGED]
    with pytest.raises(BuildError, match=r"have pairs, and token-classification takes single texts\. Leave the second"):
        quick_build(token_checkpoint, tmp_path / "r", precision="auto", texts=texts)
    assert not (tmp_path / "r").exists()


def test_masks_are_judged_and_timed_in_a_script_without_spaces(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "made", "masked")
    texts = [f"这家餐馆的菜很好吃我们下次还会再来{number}次。" for number in range(36)]
    built = quick_build(made, tmp_path / "r", precision="auto", texts=texts, bounds=Bounds(0.0, 2.0))
    (chosen,) = [each for each in built.manifest.candidates if each["chosen"]]
    assert chosen["accuracy"]["decisions"] == 24  # of 36; the others were to calibrate on


def test_texts_of_which_none_can_be_asked(tmp_path: Path) -> None:
    made = make_checkpoint(tmp_path / "made", "masked")
    texts = [f"{number} " + "word " * 30 for number in range(20)]
    with pytest.raises(BuildError, match=r"None of \d+ texts can be asked: the model's 8 tokens leave no room"):
        quick_build(made, tmp_path / "r", precision="auto", texts=texts, overrides=Overrides(max_length=8))
    assert not (tmp_path / "r").exists()  # before any work


def test_no_judged_text_is_calibrated_on(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine and the judge really get, pairs included."""
    seen: dict[str, set[tuple[int, ...]]] = {"calibrated": set(), "judged": set()}
    build, init = OpenVino.build, Contest.__init__  # the first build is of the graph, to compare it

    def watched_build(self: OpenVino, ingredients: Ingredients, *others: Any) -> Any:
        if not ingredients.calibration:
            return build(self, ingredients, *others)
        for call in ingredients.calibration:
            for ids, segments in zip(call["input_ids"], call["segment_ids"], strict=True):
                seen["calibrated"] |= {tuple(ids[segments == n].tolist()) for n in range(1, segments.max() + 1)}
        raise ExportError("enough is seen")

    def watched_init(self: Contest, *arguments: Any, **options: Any) -> None:
        seen["judged"] |= {tuple(example.input_ids.tolist()) for example in options["examples"]}
        init(self, *arguments, **options)

    monkeypatch.setattr(OpenVino, "build", watched_build)
    monkeypatch.setattr(Contest, "__init__", watched_init)
    texts = [*JUDGED, *((text, f"{index} Paar") for index, text in enumerate(JUDGED))]
    with pytest.raises(BuildError, match="enough is seen"):
        quick_build(checkpoint, tmp_path, engine="openvino", precision="int8", texts=texts)
    assert not seen["calibrated"] & seen["judged"]
    assert len(seen["calibrated"]) + len(seen["judged"]) == len(texts)
    assert len(seen["judged"]) > len(seen["calibrated"]) > 10


def test_the_texts_that_are_shipped_are_many_and_in_the_models_own_language() -> None:
    """By a tokenizer that knows Greek letters alone: every other one costs it a token of its own, unknown."""

    def greek(letter: str) -> bool:
        return "\u0370" <= letter <= "\u03ff" or letter.isspace()

    found = paragraphs(
        lambda text: len(text.split()) + sum(not greek(it) for it in text),
        lambda text: sum(not greek(it) and it.isalpha() for it in text),
    )
    assert len(found) >= 240
    assert len(set(found)) == len(found)
    share = [sum(map(greek, text)) / len(text) for text in found[:3]]
    assert max(share) > 0.8, found[:3]


def test_each_engine_says_what_it_lacks_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritext.engines.machine.processor_flags", lambda: frozenset({"avx2"}))
    for name in ("openvino", "onnxruntime"):
        engine = engine_named(name)
        assert engine.lacks("fp32") is None
        for precision in set(engine.precisions) - {"fp32"}:
            assert (engine.lacks(precision) or "").startswith("this processor")
