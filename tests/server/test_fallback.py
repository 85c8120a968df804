"""A real server on a machine that cannot run what was built: it says so and answers, or says why it does not."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from test_serve_command import Start, finish, ready, start

from building import JUDGED, TEXTS, make_checkpoint, quick_build, record_anew
from tritext import Client
from tritext.build.gate import Bounds
from tritext.engines.machine import processor_lacks
from tritext.manifest import CHECK, read_reference, write_reference
from tritext.repository import BuiltModel, committed
from tritext.settings import EngineSettings

__all__ = ["start"]  # a fixture

INSTANCES = 2  # of an encoder step, see models/encoder_python

pytestmark = pytest.mark.skipif(bool(processor_lacks("int8")), reason="this processor has no int8 products")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltModel:
    """A model in int8, with fp32 to fall back to."""
    folder = tmp_path_factory.mktemp("fallback")
    bounds = Bounds(0.0, 1.0)  # how good it is is not the question here
    made = make_checkpoint(folder / "checkpoint")
    return quick_build(made, folder / "repository", "topics", precision="int8", texts=JUDGED, bounds=bounds).model


@pytest.fixture
def model(built: BuiltModel, tmp_path: Path) -> BuiltModel:
    """A copy of it, which may be spoilt."""
    found = committed(Path(shutil.copytree(built.repository, tmp_path / "repository")), built.name)
    assert found is not None
    return found


def disagree(model: BuiltModel, precisions: set[str]) -> None:
    """Let the encoder find that it is wrong in `precisions`."""
    settings = EngineSettings.read(model.step("encoder"))
    variants = tuple(
        replace(each, tolerance=1e-12) if each.precision in precisions else each for each in settings.variants
    )
    replace(settings, variants=variants).write(model.step("encoder"))
    record_anew(model)


def test_it_says_so_and_answers_as_the_checkpoint_does(model: BuiltModel, start: Start) -> None:
    disagree(model, {"int8"})
    process = start(model.repository, "--json")
    endpoints = ready(process)
    with Client(endpoints["grpc"]) as client:
        found = client.classify("topics", list(TEXTS), function_to_apply="none", top_k="all")
    for result, example in zip(found, model.reference(), strict=False):
        scores = sorted(example.logits.tolist(), reverse=True)
        assert [score.score for score in result.labels] == pytest.approx(scores, abs=1e-3)
    process.terminate()
    _, err = process.communicate(timeout=30)
    lines = [line for line in err.splitlines() if "not as built" in line]
    assert 1 <= len(lines) <= INSTANCES  # each finds out for itself
    line = lines[0]
    print(line)
    assert f"{model.name}_encoder_{model.build} runs as onnxruntime fp32 here" in line
    assert re.search(r"onnxruntime int8: It is wrong on this machine: .* differ by [\d.e-]+ from .*, and 1e-12", line)
    assert "Traceback" not in err


@pytest.mark.parametrize("spoil", ["tolerance", "reference"])
def test_where_no_way_to_run_it_agrees_the_server_does_not_start(model: BuiltModel, start: Start, spoil: str) -> None:
    spoilers: dict[str, Callable[[], None]] = {
        "tolerance": lambda: disagree(model, {"int8", "fp32"}),
        "reference": lambda: write_reference(
            model.step("encoder"),
            [replace(each, logits=each.logits + 100) for each in read_reference(model.step("encoder"), CHECK)],
            CHECK,
        ),
    }
    spoilers[spoil]()
    record_anew(model)
    code, out, err = finish(start(model.repository))
    assert (code, out) == (1, "")
    (sentence,) = [line for line in err.splitlines() if line.startswith("error: ")]
    print(sentence)
    assert "No engine of this model runs on this machine. onnxruntime int8: It is wrong" in sentence
    assert re.search(r"onnxruntime fp32: It is wrong on this machine: for the text '.*' its logits differ by", sentence)
    assert re.search(r"from the checkpoint's, and [\d.e-]+ is allowed", sentence)


def test_the_record_does_not_change(model: BuiltModel) -> None:
    """What runs where is the machine's affair: the manifest says what was built."""
    assert json.loads((model.folder / "manifest.json").read_text())["engine"]["precision"] == "int8"
