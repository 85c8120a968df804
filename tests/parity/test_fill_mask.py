"""The tokens in place of each mask are those of `transformers.pipeline`, with its scores and sequences."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hard_texts import SINGLE
from serving import Served, serving

import checkpoints
from building import make_checkpoint, quick_build
from tritext.build.checkpoint import Overrides
from tritext.errors import CheckpointError, InvalidInput
from tritext.tasks.fill_mask import TASK

SCORE_TOLERANCE = 1e-4
# By name: the architecture and the engine. DeBERTa with a convolution has one text a row.
VARIANTS = {
    "bert": ("bert", "openvino"),
    "roberta": ("roberta", "openvino"),
    "xlm-roberta": ("xlm-roberta", "onnxruntime"),
    "mpnet": ("mpnet", "openvino"),
    "albert": ("albert", "openvino"),
    "electra": ("electra", "torch"),
    "distilbert": ("distilbert", "openvino"),
    "convolved": ("deberta-v2", "openvino"),
}
CONVOLVED = {"conv_kernel_size": 3, "conv_act": "gelu", "position_biased_input": True, "type_vocab_size": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("masked")
    return {
        name: make_checkpoint(
            root / name, "masked", architecture=architecture, **(CONVOLVED if name == "convolved" else {})
        )
        for name, (architecture, _) in VARIANTS.items()
    }


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("models")
    for name, folder in folders.items():
        quick_build(folder, repository, name, engine=VARIANTS[name][1])
    with serving(repository) as served:
        yield served


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> Callable[[str], Any]:
    known: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in known:
            known[name] = transformers.pipeline(
                "fill-mask", model=str(folders[name]), device="cpu", dtype=torch.float32
            )
        return known[name]

    return get


def asked(pipe: Any, text: str, **options: Any) -> list[dict[str, Any]]:
    """The pipeline's answers, mask by mask, with the number of their mask."""
    found = pipe(text, tokenizer_kwargs={"truncation": True}, **options)
    nested = found if isinstance(found[0], list) else [found]
    return [{**each, "mask": mask} for mask, row in enumerate(nested) for each in row]


def answers(tensors: dict[str, Any]) -> list[list[dict[str, Any]]]:
    names = {"LABEL": "token_str", "SCORE": "score", "SEQUENCE": "sequence", "TOKEN": "token", "MASK": "mask"}
    rows = []
    for row, count in enumerate(tensors["COUNT"][:, 0]):
        columns = {
            name: [
                value.decode() if isinstance(value, bytes) else value.item() for value in tensors[tensor][row, :count]
            ]
            for tensor, name in names.items()
        }
        rows.append([dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)])
    return rows


def check(got: Sequence[dict[str, Any]], expected: Sequence[dict[str, Any]]) -> None:
    assert len(got) == len(expected)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine["score"] == pytest.approx(theirs["score"], abs=SCORE_TOLERANCE)
        if mine["token"] != theirs["token"]:  # two tokens of one score may change places
            assert theirs["score"] in [pytest.approx(each["score"], abs=SCORE_TOLERANCE) for each in got]
            continue
        assert {**mine, "score": 0} == {**theirs, "score": 0}


def texts_for(pipe: Any) -> list[str]:
    """Real and awkward ones, with one, two or more masks."""
    mask = pipe.tokenizer.mask_token
    made = [text for text in TASK.references(SINGLE, mask) if isinstance(text, str)]
    return [text for text in made if pipe.tokenizer.mask_token_id in pipe.tokenizer(text, truncation=True)["input_ids"]]


@pytest.mark.parametrize("name", VARIANTS)
def test_tokens_are_the_pipelines(name: str, served: Served, reference: Callable[[str], Any]) -> None:
    pipe = reference(name)
    texts = texts_for(pipe)
    assert len(texts) > 50
    got = answers(served.infer(name, {"TEXT": [[text] for text in texts]}))
    expected = [asked(pipe, text) for text in texts]
    for mine, theirs in zip(got, expected, strict=True):
        check(mine, theirs)
    assert {len(row) for row in got} >= {5, 10}
    same = [
        a["token"] == b["token"]
        for row, wanted in zip(got, expected, strict=True)
        for a, b in zip(row, wanted, strict=True)
    ]
    assert np.mean(same) > 0.99


def test_parameters(served: Served, reference: Callable[[str], Any]) -> None:
    pipe = reference("bert")
    text = "the [MASK] and [MASK] of human rights"
    for options in (
        {"top_k": 1},
        {"top_k": 12},
        {"targets": ["the", "und", "rights"]},
        {"top_k": 1, "targets": ["the"]},
    ):
        sent = {name: ",".join(value) if isinstance(value, list) else value for name, value in options.items()}
        (got,) = answers(served.infer("bert", {"TEXT": [[text]]}, **sent))
        check(got, asked(pipe, text, **options))
    for parameters, sentence in (
        ({"top_k": 0}, "top_k is 0; it must be a whole number from 1 to 100"),
        ({"targets": "[]"}, r"targets is '\[\]'; it must be one or more names"),
        ({"top_k": "all"}, "top_k is 'all'"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            served.infer("bert", {"TEXT": [[text]]}, **parameters)


def test_a_text_without_a_mask_is_refused_alone(served: Served) -> None:
    with pytest.raises(InvalidInput, match=r"TEXT\[1\] has no \[MASK\] among the 128 tokens"):
        served.infer("bert", {"TEXT": [["a [MASK]"], ["nothing to fill"]]})
    with pytest.raises(InvalidInput, match=r"TEXT\[0\] has no \[MASK\]"):
        served.infer("bert", {"TEXT": [["word " * 300 + "[MASK]"]]})
    (found,) = answers(served.infer("bert", {"TEXT": [["word " * 300 + "[MASK]"]]}, truncation="left"))
    assert len(found) == 5


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoints.make(tmp_path / "c", checkpoints.ARCHITECTURES["bert"], checkpoints.HEADS["masked"])
    config = (checkpoint / "tokenizer_config.json").read_text().replace('"mask_token": "[MASK]"', '"mask_token": null')
    (checkpoint / "tokenizer_config.json").write_text(config)
    with pytest.raises(CheckpointError, match="has no mask token"):
        quick_build(checkpoint, tmp_path / "repository", overrides=Overrides(task="fill-mask"))
