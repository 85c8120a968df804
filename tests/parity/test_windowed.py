"""Long texts in windows: classes of the whole, and entities that no border cuts."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from asking import InProcess, rows
from comparing import SCORE_TOLERANCE, STRATEGIES
from hard_texts import PAIRS, SINGLE
from numpy.typing import NDArray
from reference import Item, Reference, shape
from serving import Served, build_all, serving
from transformers import AutoModelForTokenClassification

import checkpoints
from building import quick_build
from checkpoints import ARCHITECTURES, HEADS
from tritext import Client
from tritext.client import Classification, TokenClassification
from tritext.errors import InvalidInput
from tritext.pipeline import Pipeline
from tritext.repository import BuiltModel, committed

MODELS = {"texts": "single", "topics": "multi", "tokens": "tokens", "masks": "masked"}
LONG = " ".join(text for text in SINGLE[:16] if "\0" not in text)
OTHER = " ".join(SINGLE[20:28])
STRIDES = (0, 33, 90)  # of 90, a token is in up to four windows


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("windows")
    made = {name: checkpoints.make(folder / name, ARCHITECTURES["bert"], HEADS[head]) for name, head in MODELS.items()}
    with serving(build_all(folder, {name: (checkpoint, {}) for name, checkpoint in made.items()})) as served:
        yield served


@pytest.fixture(scope="module")
def reference(served: Served) -> dict[str, Reference]:
    folder = served.repository.parent
    return {name: Reference(folder / name, is_tokens=name == "tokens") for name in ("texts", "topics", "tokens")}


def model(repository: Path, name: str) -> BuiltModel:
    found = committed(repository, name)
    assert found
    return found


@pytest.fixture(scope="module")
def asked(served: Served) -> dict[str, InProcess]:
    """Each model in this process."""
    return {name: InProcess(Pipeline.load(model(served.repository, name))) for name in MODELS}


def windows(reference: Reference, item: Item, stride: int) -> tuple[Any, NDArray[np.float32], list[NDArray[np.intp]]]:
    """What transformers makes of a long text: its encoding, each window's logits, and the tokens that are its own."""
    is_pair = isinstance(item, tuple)
    encoded = reference.tokenizer(
        [item], truncation="only_second" if is_pair else True, max_length=128, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_special_tokens_mask=True,
    )  # fmt: skip
    logits = []
    for ids, types in zip(encoded["input_ids"], encoded["token_type_ids"], strict=True):
        with torch.no_grad():
            output = reference.pipe.model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types]))
        logits.append(output.logits[0].numpy())
    parts = [np.flatnonzero([s == int(is_pair) for s in encoded.sequence_ids(i)]) for i in range(len(logits))]
    begins = np.arange(len(parts)) * (len(parts[0]) - stride)
    return encoded, logits, own(parts, begins)


def own(parts: list[NDArray[np.intp]], begins: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Of each window the tokens of the text for which it has the most around them, found one by one."""
    ends = begins + [len(part) for part in parts]
    found: list[list[int]] = [[] for _ in parts]
    for token in range(ends[-1]):
        around = [
            min(token - b if b else np.inf, e - 1 - token if e < ends[-1] else np.inf) if b <= token < e else -1.0
            for b, e in zip(begins, ends, strict=True)
        ]
        best = int(np.argmax(around))
        found[best].append(int(parts[best][token - begins[best]]))
    return [np.array(each, dtype=np.intp) for each in found]


@pytest.mark.parametrize("name", ["texts", "topics"])
@pytest.mark.parametrize("stride", STRIDES)
def test_a_text_gets_the_mean_or_the_largest_of_its_windows(
    name: str, stride: int, asked: dict[str, InProcess], reference: dict[str, Reference]
) -> None:
    it = reference[name]
    texts: list[Item] = [LONG, "short", OTHER, ""]
    pairs: list[Item] = [("A question?", LONG), ("", ""), PAIRS[0]]
    for items in (texts, pairs):
        for rule in ("mean", "max"):
            got = asked[name](items, truncation="window", stride=stride, windows=rule, top_k="all")
            assert not got["TRUNCATED"].any()
            assert got["TOKEN_COUNT"][:, 0].tolist() == [it.length(item) for item in items]
            for item, answers in zip(items, rows(got), strict=True):
                _, logits, mine = windows(it, item, stride)
                weights = np.array([max(len(each), 1) for each in mine])
                joined = np.average(logits, axis=0, weights=weights) if rule == "mean" else np.max(logits, axis=0)
                wanted = it.pipe.postprocess({"logits": torch.tensor(joined[None])}, top_k=None, _legacy=False)
                assert [answer["label"] for answer in answers] == [answer["label"] for answer in wanted]
                for answer, want in zip(answers, wanted, strict=True):
                    assert answer["score"] == pytest.approx(want["score"], abs=SCORE_TOLERANCE)


@pytest.mark.parametrize("stride", STRIDES)
def test_tokens_are_stitched_before_they_are_joined_to_entities(
    stride: int, asked: dict[str, InProcess], reference: dict[str, Reference]
) -> None:
    it = reference["tokens"]
    encoded, logits, mine = windows(it, LONG, stride)
    whole = {
        "sentence": LONG,
        "is_last": True,
        "logits": torch.tensor(np.concatenate([each[own] for each, own in zip(logits, mine, strict=True)])[None]),
        **{
            name: torch.tensor(
                np.concatenate([np.array(each)[own] for each, own in zip(encoded[name], mine, strict=True)])[None]
            )
            for name in ("input_ids", "special_tokens_mask", "offset_mapping")
        },
    }
    for strategy in STRATEGIES:
        options = {"aggregation_strategy": strategy, "ignore_labels": []}
        wanted = it.pipe.postprocess([whole], **it.pipe._sanitize_parameters(**options)[2])
        got = asked["tokens"](
            ["short", LONG], truncation="window", stride=stride, aggregation_strategy=strategy, ignore_labels="[]"
        )
        assert not got["TRUNCATED"].any()
        answers = rows(got)[1]
        assert len(answers) > 200
        assert shape(answers) == shape(wanted)
        assert all(LONG[each["start"] : each["end"]] == each["word"] for each in answers)
        scores = [each["score"] for each in wanted]
        assert [each["score"] for each in answers] == pytest.approx(scores, abs=SCORE_TOLERANCE)


@pytest.mark.parametrize("name", ["texts", "tokens"])
def test_what_fits_is_answered_as_without_windows(name: str, asked: dict[str, InProcess]) -> None:
    texts = [text for text in SINGLE if "\0" not in text and len(text) < 120]
    plain = asked[name](texts)
    for stride in (None, 0, 125):
        windowed = asked[name](texts, truncation="window", **({} if stride is None else {"stride": stride}))
        for output in ("LABEL", "SCORE", "COUNT", "TOKEN_COUNT", "TRUNCATED"):
            np.testing.assert_array_equal(windowed[output], plain[output])


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that answers for each token by the token alone, so that every difference is the windows'."""
    folder = checkpoints.make(tmp_path_factory.mktemp("forgetful") / "c", ARCHITECTURES["bert"], HEADS["tokens"])
    it = AutoModelForTokenClassification.from_pretrained(folder)
    with torch.no_grad():
        it.bert.embeddings.position_embeddings.weight.zero_()
        for layer in it.bert.encoder.layer:
            layer.attention.output.dense.weight.zero_()
    it.save_pretrained(folder)
    quick_build(folder, folder.parent / "r")
    return folder


def test_entities_of_tokens_are_those_of_the_pipeline_with_a_stride(forgetful: Path) -> None:
    """Its other strategies take what a border leaves of a word for a word."""
    ask = InProcess(Pipeline.load(model(forgetful.parent / "r", "model")))
    options = {"aggregation_strategy": "simple", "ignore_labels": []}
    for stride in (32, 60):
        pipe = transformers.pipeline(
            "token-classification", model=str(forgetful), device="cpu", stride=stride, **options
        )  # fmt: skip
        got = rows(ask([LONG], truncation="window", stride=stride, aggregation_strategy="simple", ignore_labels="[]"))
        assert sorted(shape(got[0])) == sorted(shape(pipe(LONG)))


def test_an_entity_on_any_border_is_found_once_and_whole(forgetful: Path) -> None:
    ask = InProcess(Pipeline.load(model(forgetful.parent / "r", "model")))
    vocabulary = sorted({word for text in SINGLE[:80] for word in text.lower().split() if word.isalpha()})
    labels = rows(ask(vocabulary, aggregation_strategy="none", ignore_labels="[]"))
    words = {answers[0]["label"]: word for word, answers in zip(vocabulary, labels, strict=True) if len(answers) == 1}
    inside = next(label for label in words if label.startswith("I-"))
    outside = next(label for label in words if label[2:] != inside[2:])
    others, name = words[outside], " ".join([words[inside]] * 3)
    options = {"truncation": "window", "ignore_labels": outside[2:] or outside}
    for stride in (0, 1, 80):
        texts = [f"{f'{others} ' * before}{name}{f' {others}' * (140 - before)}" for before in range(141)]
        for strategy in ("simple", "first"):
            got = rows(ask(texts, stride=stride, aggregation_strategy=strategy, **options))
            for before, answers in enumerate(got):
                start = before * (len(others) + 1)
                assert shape(answers) == [(inside[2:], start, start + len(name))], (stride, before)
                assert answers[0]["word"] == name


def test_every_way_to_ask(served: Served, asked: dict[str, InProcess]) -> None:
    text = asked["texts"]([LONG], truncation="window", stride=20, windows="max")
    entities = asked["tokens"]([LONG], truncation="window", aggregation_strategy="first")
    label, score, count = text["LABEL"][0, 0].decode(), float(text["SCORE"][0, 0]), int(text["TOKEN_COUNT"][0, 0])
    with Client(served.server.grpc_url) as client:
        (one,) = client.classify(
            "texts", [LONG], result_type=Classification, truncation="window", stride=20, windows="max"
        )
        assert (one.label, one.score, one.token_count, one.truncated) == (label, pytest.approx(score), count, False)
        _, all_of_them = client.classify(
            "tokens", ["short", LONG], result_type=TokenClassification, truncation="window",
            aggregation_strategy="first",
        )  # fmt: skip
        assert len(all_of_them.entities) == entities["COUNT"][0, 0] > 100
        assert [each.word for each in all_of_them.entities] == [each.decode() for each in entities["WORD"][0]]
        assert all_of_them.entities[-1].end > 128 * 10
    parameters = {"truncation": "window", "stride": "20", "windows": "max"}
    assert served.generate("texts", {"TEXT": LONG, **parameters})["LABEL"] == label
    (line,) = served.command("texts", LONG, "--truncation", "window", "--stride", "20", "--set", "windows=max")
    assert line["labels"][0]["label"] == label


def test_what_cannot_be_is_refused_with_its_place(served: Served) -> None:
    too_large = r"stride of 126 tokens is too large: a window has 126 of TEXT\[1\]"
    no_room = r"TEXT\[0\] leaves none of a window's tokens to TEXT_PAIR\[0\]"
    too_many = "make 39875 rows for the model, and 16384 are the most"
    for name, inputs, parameters, sentence in (
        ("texts", {"TEXT": [["a"], [LONG]]}, {"stride": 126}, too_large),
        ("texts", {"TEXT": [[LONG]]}, {"stride": -1}, "Parameter stride is -1; it must be a whole number of tokens"),
        ("texts", {"TEXT": [[LONG]], "TEXT_PAIR": [["a b"]]}, {}, no_room),
        ("texts", {"TEXT": [["a b " * 20_000]]}, {"stride": 125}, too_many),
        ("masks", {"TEXT": [["a [MASK]"]]}, {}, "does not take: text-classification and token-classification do"),
    ):
        with pytest.raises(InvalidInput, match=sentence):
            served.infer(name, inputs, truncation="window", **parameters)


def test_a_build_of_before_answers_on_and_says_that_it_has_no_windows(served: Served, tmp_path: Path) -> None:
    shutil.copytree(served.repository, tmp_path / "r")
    for name in ("texts", "tokens"):
        old = model(tmp_path / "r", name)
        expected = InProcess(Pipeline.load(old))(["A text"])["SCORE"]
        for role in ("tokenizer", "postprocess"):
            path = old.step(role) / "settings.json"
            values = json.loads(path.read_text(encoding="utf-8"))
            del values["most_rows"]
            path.write_text(json.dumps(values), encoding="utf-8")
        ask = InProcess(Pipeline.load(old))
        np.testing.assert_array_equal(ask(["A text"])["SCORE"], expected)
        with pytest.raises(InvalidInput, match="built by an older tritext and makes no windows"):
            ask(["A text"], truncation="window")
