"""Labels that come with the request get the scores that `transformers.pipeline` gives them."""

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
from building import quick_build
from checkpoints import ARCHITECTURES, SEQUENCE, Head
from tritext import Client
from tritext.build.checkpoint import Overrides
from tritext.client import Classification
from tritext.errors import CheckpointError, InvalidInput
from tritext.settings import TaskSettings
from tritext.tasks.zero_shot_classification import TASK, ZeroShotClassificationParameters
from tritext.text.tokenizer import TextTokenizer

SCORE_TOLERANCE = 1e-4
SETTINGS = TaskSettings(
    task="zero-shot-classification", labels=("contradiction", "neutral", "entailment"), problem_type=None,
    max_length=128, encoder_inputs=("input_ids", "attention_mask"), pad_id=0, unk_id=None,
)  # fmt: skip
LABELS = ["politics", "Freiheit und Würde", "日本", "спорт", "food & drink {}", "👩‍🔬"]
# By name: the architecture, the checkpoint's labels, and the engine.
VARIANTS = {
    "bert": ("bert", ("contradiction", "neutral", "entailment"), "openvino"),
    "roberta": ("roberta", ("ENTAILMENT", "neutral", "contradiction"), "onnxruntime"),
    "xlm-roberta": ("xlm-roberta", ("not_entailment", "entailment"), "openvino"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("nli")
    return {
        name: checkpoints.make(root / name, ARCHITECTURES[architecture], Head(SEQUENCE, labels))
        for name, (architecture, labels, _) in VARIANTS.items()
    }


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("models")
    for name, folder in folders.items():
        quick_build(
            folder, repository, name, engine=VARIANTS[name][2], overrides=Overrides(task="zero-shot-classification")
        )
    with serving(repository) as served:
        yield served


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> Callable[..., dict[str, float]]:
    known: dict[str, Any] = {}

    def scores(name: str, text: str, labels: list[str], **options: Any) -> dict[str, float]:
        """By label, the best first."""
        if name not in known:
            known[name] = transformers.pipeline(
                "zero-shot-classification", model=str(folders[name]), device="cpu", dtype=torch.float32
            )
        found = known[name](text, labels, **options)
        return dict(zip(found["labels"], found["scores"], strict=True))

    return scores


def answers(tensors: dict[str, Any]) -> list[dict[str, float]]:
    return [
        {label.decode(): float(score) for label, score in zip(labels[:count], scores[:count], strict=True)}
        for labels, scores, count in zip(tensors["LABEL"], tensors["SCORE"], tensors["COUNT"][:, 0], strict=True)
    ]


def check(got: dict[str, float], expected: dict[str, float]) -> None:
    assert set(got) == set(expected)
    assert got == {label: pytest.approx(score, abs=SCORE_TOLERANCE) for label, score in expected.items()}
    assert list(got.values()) == sorted(got.values(), reverse=True)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    "options",
    [{}, {"multi_label": True}, {"hypothesis_template": "Hier geht es um {}: {}"}],
    ids=["one label", "many labels", "template"],
)
def test_scores_are_the_pipelines(
    name: str, options: dict[str, Any], served: Served, reference: Callable[..., dict[str, float]]
) -> None:
    texts = [text for text in SINGLE if text.strip("\0 ")]  # the pipeline refuses an empty one
    labels = LABELS[:4] if "hypothesis_template" in options else LABELS
    template = options.get("hypothesis_template", "This example is {}.")
    got = answers(
        served.infer(name, {"TEXT": [[t] for t in texts], "CANDIDATE_LABELS": [labels] * len(texts)}, **options)
    )
    asked = {**options, "hypothesis_template": template.replace("{}: {}", "{0}: {0}")}
    for text, mine in zip(texts, got, strict=True):
        check(mine, reference(name, text, labels, **asked))


def test_each_text_may_have_labels_of_its_own(served: Served, reference: Callable[..., dict[str, float]]) -> None:
    rows = {"TEXT": [["one"], ["two"], ["three"]], "CANDIDATE_LABELS": [LABELS[:3], ["news", "", ""], ["a", "b", ""]]}
    got = answers(served.infer("bert", rows))
    for text, labels, mine in zip(("one", "two", "three"), (LABELS[:3], ["news"], ["a", "b"]), got, strict=True):
        check(mine, reference("bert", text, labels))


def test_more_rows_than_texts_a_request(served: Served, reference: Callable[..., dict[str, float]]) -> None:
    """256 texts are the most; their rows are many more."""
    labels = [f"topic {number}" for number in range(40)]
    texts = [[f"text {number}"] for number in range(30)]
    got = answers(served.infer("bert", {"TEXT": texts, "CANDIDATE_LABELS": [labels] * len(texts)}))
    assert len(got) == 30
    check(got[29], reference("bert", "text 29", labels))
    with pytest.raises(InvalidInput, match=r"make 20000 rows for the model, and 16384 are the most"):
        served.infer("bert", {"TEXT": [["a"]] * 200, "CANDIDATE_LABELS": [["x"] * 100] * 200})


def test_what_cannot_be_asked_is_refused_with_its_place(served: Served) -> None:
    for rows, parameters, sentence in (
        ({"TEXT": [["a"], ["b"]], "CANDIDATE_LABELS": [["x"], [" "]]}, {}, r"CANDIDATE_LABELS\[1\] is empty"),
        (
            {"TEXT": [["a"]], "CANDIDATE_LABELS": [["word " * 200]]},
            {},
            r"CANDIDATE_LABELS\[0\] has a label that is too",
        ),
        (
            {"TEXT": [["a"]], "CANDIDATE_LABELS": [["x"]]},
            {"hypothesis_template": "no place"},
            "must be a string with {}",
        ),
        (
            {"TEXT": [["a"], ["b " * 300]], "CANDIDATE_LABELS": [["x"], ["y"]]},
            {"truncation": "error"},
            r"TEXT\[1\] and CANDIDATE_LABELS\[1\] together have \d+ tokens",
        ),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            served.infer("bert", rows, **parameters)


def test_the_client_sends_the_labels_with_each_text(served: Served, reference: Callable[..., dict[str, float]]) -> None:
    with Client(served.server.grpc_url) as client:
        results = client.classify(
            "bert",
            ["All human beings"] * 40,
            result_type=Classification,
            candidate_labels=LABELS[:3],
            multi_label=False,
        )
        with pytest.raises(InvalidInput, match="needs candidate_labels: a list of strings"):
            client.classify("bert", ["a"])
    assert len(results) == 40
    check({each.label: each.score for each in results[-1].labels}, reference("bert", "All human beings", LABELS[:3]))


def test_a_checkpoint_that_is_not_for_inference_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoints.make(tmp_path / "c", ARCHITECTURES["bert"], checkpoints.HEADS["single"])
    with pytest.raises(CheckpointError, match=r"a label that begins with 'entail'\. This one has négatif"):
        quick_build(checkpoint, tmp_path / "r", overrides=Overrides(task="zero-shot-classification"))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "albert", "mpnet", "deberta-v2"])
def test_a_premise_is_tokenized_once_to_the_same_ids(architecture: str, tmp_path: Path) -> None:
    folder = checkpoints.make(tmp_path / "c", ARCHITECTURES[architecture], checkpoints.HEADS["single"])
    tokenizer = TextTokenizer(folder / "tokenizer.json", 128)
    pairs = [(text, f"This is {label}.") for text in SINGLE for label in LABELS[:3]]
    together = tokenizer.encode(pairs, ["right"] * len(pairs))
    for pair, shared in zip(pairs, together, strict=True):
        (alone,) = tokenizer.encode([pair], ["right"])
        np.testing.assert_array_equal(shared.input_ids, alone.input_ids)
        np.testing.assert_array_equal(shared.token_type_ids, alone.token_type_ids)


class Counted:
    """A tokenizer that writes down what it is given to tokenize."""

    def __init__(self, inner: Any) -> None:
        self.__dict__.update(inner=inner, given=[])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)

    def encode_batch_fast(self, texts: Sequence[Any], **options: Any) -> Any:
        self.given += [part for text in texts for part in ([text] if isinstance(text, str) else text)]
        return self.inner.encode_batch_fast(texts, **options)


@pytest.mark.parametrize("labels", [1, 2, 3, 100])
@pytest.mark.parametrize("texts", [1, 2, 5])
@pytest.mark.parametrize("are_own", [False, True], ids=["the same labels", "labels of their own"])
def test_a_premise_is_tokenized_once_whatever_the_number_of_labels(
    texts: int, labels: int, are_own: bool, folders: dict[str, Path]
) -> None:
    tokenizer = TextTokenizer(folders["bert"] / "tokenizer.json", 128)
    counted = Counted(tokenizer._tokenizer)
    tokenizer._tokenizer = counted
    premises = [f"premise number {number}, a long one" for number in range(texts)]
    rows = {
        "TEXT": [[premise.encode()] for premise in premises],
        "CANDIDATE_LABELS": [
            [f"{label} of {number if are_own else 0}".encode() for label in range(labels)] for number in range(texts)
        ],
    }
    inputs = {name: np.array(values, dtype=np.object_) for name, values in rows.items()}
    pairs = TASK.rows(inputs, SETTINGS, ZeroShotClassificationParameters()).texts
    assert len(tokenizer.encode(pairs, ["right"] * len(pairs))) == texts * labels
    assert [counted.given.count(premise) for premise in premises] == [1] * texts
