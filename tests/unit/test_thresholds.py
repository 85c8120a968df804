"""Thresholds of a label's own: what the file may say, what a text is answered, and what a request changes."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from building import TEXTS, answers, make_checkpoint, quick_build
from checkpoints import TOPICS
from tritext.build.thresholds import read
from tritext.errors import BuildError

OWN = dict(zip(TOPICS, (0.2, 0.5, 0.35, 0.8, 0.05), strict=True))


@pytest.fixture(scope="module")
def multi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("multi") / "checkpoint", "multi")


def as_pipeline_has_it(checkpoint: Path, least: dict[str, float]) -> list[tuple[list[str], list[float]]]:
    pipe: Any = pipeline("text-classification", model=str(checkpoint), device="cpu")
    found = []
    for text in TEXTS:
        good = [each for each in pipe(text, top_k=None) if each["score"] >= least[each["label"]]]
        found.append(([each["label"] for each in good], [each["score"] for each in good]))
    return found


def test_a_text_has_the_labels_that_reach_their_own(multi: Path, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps(OWN), encoding="utf-8")
    built = quick_build(multi, tmp_path / "repository", thresholds=read(path))
    sizes = set()
    for least, parameters in (
        (OWN, {}),
        (dict.fromkeys(TOPICS, 0.5), {"threshold": 0.5}),
        (dict.fromkeys(TOPICS, 0.0), {"threshold": 0}),
        (dict.fromkeys(TOPICS, 0.0), {"function_to_apply": "sigmoid"}),
    ):
        expected = as_pipeline_has_it(multi, least)
        found = answers(built.model, **parameters)
        assert [labels for labels, _ in found] == [labels for labels, _ in expected]
        for (_, scores), (_, wanted) in zip(found, expected, strict=True):
            assert scores == pytest.approx(wanted, abs=1e-4)
        sizes |= {len(labels) for labels, _ in found}
    assert len(sizes) > 2  # some texts have few labels, some have all
    assert [labels for labels, _ in answers(built.model, top_k=1)] == [
        labels[:1] for labels, _ in as_pipeline_has_it(multi, OWN)
    ]
    again = quick_build(multi, tmp_path / "repository", thresholds=OWN)
    assert not again.changed
    assert quick_build(multi, tmp_path / "repository", thresholds={**OWN, "news": 0.4}).changed


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "thresholds.json is not JSON"),
        ("[0.5]", "is no JSON object such as"),
        ("{}", "is no JSON object such as"),
        ('{"news": 1.5}', "has news: 1.5; it must be a number from 0 to 1"),
        ('{"news": true}', "has news: True; it must be"),
        ('{"news": NaN}', "news|NaN"),
    ],
)
def test_a_file_that_says_something_else(content: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(BuildError, match=sentence):
        read(path)


@pytest.mark.parametrize(
    ("thresholds", "sentence"),
    [
        ({**OWN, "weather": 0.5}, "names weather, which the checkpoint has not: спорт, news"),
        ({"news": 0.5}, r"does not name спорт, 文化, ψυχαγωγία, food & drink\. Give each label one"),
    ],
)
def test_other_labels_are_refused(thresholds: dict[str, float], sentence: str, multi: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=sentence):
        quick_build(multi, tmp_path / "repository", thresholds=thresholds)


def test_other_tasks_are_refused(token_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="are for text classification into labels; this is token-classification"):
        quick_build(token_checkpoint, tmp_path / "repository", thresholds=OWN)
    regression = make_checkpoint(tmp_path / "regression", "regression")
    with pytest.raises(BuildError, match="this is regression"):
        quick_build(regression, tmp_path / "repository", thresholds={"score": 0.5})
