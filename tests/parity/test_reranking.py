"""Documents come in the order, and with the scores, that sentence-transformers' CrossEncoder gives them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hard_texts import SINGLE
from sentence_transformers import CrossEncoder
from serving import Served, serving

import checkpoints
from building import quick_build
from checkpoints import ARCHITECTURES, HEADS
from tritext.build.checkpoint import Overrides
from tritext.errors import CheckpointError, InvalidInput

SCORE_TOLERANCE = 1e-4
DOCUMENTS = [text for text in SINGLE if text.strip()]
VARIANTS = {"bert": "Sigmoid", "xlm-roberta": "Identity"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As sentence-transformers itself writes them, with the function that it is to apply."""
    root = tmp_path_factory.mktemp("cross")
    for name, function in VARIANTS.items():
        made = checkpoints.make(root / "made" / name, ARCHITECTURES[name], HEADS["one"])
        CrossEncoder(str(made), device="cpu", activation_fn=getattr(torch.nn, function)()).save(str(root / name))
    return {name: root / name for name in VARIANTS}


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("models")
    for name, folder in folders.items():
        quick_build(folder, repository, name, engine="openvino", overrides=Overrides(task="reranking"))
    with serving(repository) as served:
        yield served


def answers(tensors: dict[str, Any]) -> list[list[tuple[int, float]]]:
    return [
        list(zip(indices[:count].tolist(), scores[:count].tolist(), strict=True))
        for indices, scores, count in zip(tensors["INDEX"], tensors["SCORE"], tensors["COUNT"][:, 0], strict=True)
    ]


def check(got: list[tuple[int, float]], model: CrossEncoder, query: str, documents: list[str]) -> None:
    expected = {each["corpus_id"]: float(each["score"]) for each in model.rank(query, documents, batch_size=1)}
    assert dict(got) == {index: pytest.approx(score, abs=SCORE_TOLERANCE) for index, score in expected.items()}
    scores = [score for _, score in got]
    assert scores == sorted(scores, reverse=True)
    assert len({round(score, 3) for score in scores}) > len(scores) / 3  # or the order would mean nothing


@pytest.mark.parametrize("name", VARIANTS)
def test_ranks_as_sentence_transformers_does(name: str, served: Served, folders: dict[str, Path]) -> None:
    model = CrossEncoder(str(folders[name]), device="cpu")
    queries = ["human rights", "Freiheit"]
    got = answers(served.infer(name, {"QUERY": [[q] for q in queries], "DOCUMENTS": [DOCUMENTS] * 2}))
    for query, mine in zip(queries, got, strict=True):
        check(mine, model, query, DOCUMENTS)
    (best,) = answers(served.infer(name, {"QUERY": [[queries[0]]], "DOCUMENTS": [DOCUMENTS]}, top_k=3))
    assert best == got[0][:3]


def test_bad_input_is_refused_with_its_place(served: Served) -> None:
    with pytest.raises(InvalidInput, match=r"DOCUMENTS\[1\] is empty"):
        served.infer("bert", {"QUERY": [["a"], ["b"]], "DOCUMENTS": [["x"], [""]]})
    with pytest.raises(InvalidInput, match="'softmax'; it must be one of sigmoid, none"):
        served.infer("bert", {"QUERY": [["a"]], "DOCUMENTS": [["x"]]}, function_to_apply="softmax")


def test_a_classifier_is_no_reranker(tmp_path: Path) -> None:
    checkpoint = checkpoints.make(tmp_path / "c", ARCHITECTURES["bert"], HEADS["single"])
    with pytest.raises(CheckpointError, match="whose only answer is a score; this checkpoint has 4 labels"):
        quick_build(checkpoint, tmp_path / "r", overrides=Overrides(task="reranking"))
