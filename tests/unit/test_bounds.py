"""What one request may cost: memory and time that others need too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tritext import contract
from tritext.errors import InvalidInput
from tritext.settings import EngineSettings, TaskSettings
from tritext.stages.base import Request
from tritext.stages.direct import check_tokens
from tritext.stages.tokenizer import TokenizerStage
from tritext.tasks import task_named
from tritext.tasks.base import Column, pad
from tritext.tasks.fill_mask import MOST_FILLS, MOST_MASKS
from tritext.tasks.inputs import Arrays
from tritext.text.tokenizer import TextTokenizer

MASK = 4
INPUTS = ("input_ids", "attention_mask")


def settings(task: str, *labels: str, **options: Any) -> TaskSettings:
    return TaskSettings(
        task=task, labels=labels, problem_type=None, max_length=128, encoder_inputs=INPUTS, pad_id=0, unk_id=None,
        options=options, mask_id=MASK,
    )  # fmt: skip


def column(*texts: str) -> Any:
    return np.array([[text.encode()] for text in texts], dtype=np.object_)


def row(*texts: str) -> Any:
    return np.array([[text.encode() for text in texts]], dtype=np.object_)


def rows(name: str, inputs: Arrays, **sent: Any) -> Any:
    task = task_named(name)
    return task.rows(inputs, settings(name, "contradiction", "entailment"), task.parameters(**sent))


def test_a_prompt_that_goes_with_many_texts_is_not_written_before_each() -> None:
    prompt = "x" * 1_000_000
    assert len(rows("feature-extraction", {"TEXT": column(*["a"] * 8)}, prompt=prompt).texts) == 8
    with pytest.raises(
        InvalidInput, match=r"prompt has 1,000,000 characters and goes with 68 texts, which comes to 68,000,000"
    ):
        rows("feature-extraction", {"TEXT": column(*["a"] * 68)}, prompt=prompt)


def test_a_template_that_goes_with_many_labels_is_not_written_for_each() -> None:
    inputs = {"TEXT": column("a"), "CANDIDATE_LABELS": row(*[f"label {number}" for number in range(68)])}
    with pytest.raises(InvalidInput, match="hypothesis_template has 1,000,002 characters and goes with 68 texts"):
        rows("zero-shot-classification", inputs, hypothesis_template="{}" + "x" * 1_000_000)
    inputs["CANDIDATE_LABELS"] = row("y" * 10_000)
    with pytest.raises(InvalidInput, match="comes to 70,014,000"):
        rows("zero-shot-classification", inputs, hypothesis_template="{}" * 7_000)


@pytest.mark.parametrize("template", ["nothing", "{}\ud800", 7])
def test_a_template_has_a_place_for_its_label(template: Any) -> None:
    rule = task_named("zero-shot-classification").parameters.__dataclass_fields__["hypothesis_template"]
    with pytest.raises((ValueError, TypeError)):
        rule.metadata["rule"].parse(template)


def tokenizer_of(tmp_path: Path) -> TextTokenizer:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return TextTokenizer(tmp_path / "tokenizer.json", 128)


def test_a_text_counts_as_often_as_the_model_is_asked_with_it(tmp_path: Path) -> None:
    """A long one with many labels took a minute and 20 GB."""
    stage = TokenizerStage(settings("zero-shot-classification", "contradiction", "entailment"), tokenizer_of(tmp_path))
    labels = [f"label {number}" for number in range(1000)]
    small = Request({"TEXT": column("a b"), "CANDIDATE_LABELS": row(*labels[:3])})
    large = Request({"TEXT": column("a " * 40_000), "CANDIDATE_LABELS": row(*labels)})
    answered, refused = stage.process([small, large])
    assert isinstance(answered, dict)
    assert len(answered["input_ids"]) == 3
    assert isinstance(refused, InvalidInput)
    assert "make 1,000 pairs with 80,0" in str(refused)


def test_a_text_without_a_token_is_refused_by_name(tmp_path: Path) -> None:
    """Its tokenizer adds none of its own."""
    stage = TokenizerStage(settings(contract.TEXT_CLASSIFICATION, "ham", "spam"), tokenizer_of(tmp_path))
    (refused,) = stage.process([Request({"TEXT": column("a", "", "b")})])
    assert isinstance(refused, InvalidInput)
    assert str(refused) == "TEXT[1] has no token. Send some text."


def test_masks_and_answers_are_bounded() -> None:
    task, own = task_named("fill-mask"), settings("fill-mask", mask_token="[MASK]")  # noqa: S106 - no password
    few, many = np.array([2, MASK, 3], np.int32), np.full(64, MASK, np.int32)
    usual = task.parameters()
    task.check_together([few] * MOST_MASKS, own, usual)
    with pytest.raises(InvalidInput, match=f"has {MOST_MASKS + 1} texts with up to 1 masks"):
        task.check_together([few] * (MOST_MASKS + 1), own, usual)
    task.check_together([few] * 7 + [many], own, usual)
    with pytest.raises(InvalidInput, match="has 9 texts with up to 64 masks, 72 in all"):
        task.check_together([few] * 8 + [many], own, usual)
    with pytest.raises(InvalidInput, match=f"100 tokens for each.* answers {MOST_FILLS:,}"):
        task.check_together([few] * 51, own, task.parameters(top_k=100))
    with pytest.raises(ValueError, match=r"^$"):
        task.parameters.__dataclass_fields__["top_k"].metadata["rule"].parse(101)


def test_one_long_row_of_answers_beside_many_short_ones() -> None:
    with pytest.raises(InvalidInput, match=r"has 20,000 answers, and as many places .* each of its 256 texts"):
        pad(Column(contract.START, [range(20_000), *[[1]] * 255]))
    assert pad(Column(contract.START, [range(20_000)] * 256))["START"].shape == (256, 20_000)


@pytest.mark.parametrize(
    ("name", "carried"),
    [("reranking", {"document": [[0], [1]]}), ("zero-shot-classification", {"candidate": row("a", "b").T})],
)
@pytest.mark.parametrize("of", [[0, 2**31 - 1], [2**31 - 1, 2**31 - 1], [-5, 7]])
def test_places_that_a_tokenizer_never_sends_take_no_time(name: str, carried: dict[str, Any], of: list[int]) -> None:
    task = task_named(name)
    arrays = {contract.ROW.name: np.array(of, np.int32)[:, None]} | {key: np.array(a) for key, a in carried.items()}
    logits = np.zeros((2, 1 if name == "reranking" else 2), np.float32)
    answer = task.answer(logits, arrays, settings(name, "contradiction", "entailment"), task.parameters())
    assert len(answer["COUNT"]) == len(set(of))


@pytest.mark.parametrize("name", ["targets", "ignore_labels"])
def test_names_are_texts(name: str) -> None:
    task = task_named("fill-mask" if name == "targets" else contract.TOKEN_CLASSIFICATION)
    rule = task.parameters.__dataclass_fields__[name].metadata["rule"]
    assert rule.parse('["é"]') == ("é",)
    with pytest.raises(ValueError, match="surrogates"):
        rule.parse(json.dumps(["\ud800"]))


def tokens(mask: list[list[int]], **parameters: Any) -> Request:
    return Request({"input_ids": np.ones_like(mask, np.int32), "attention_mask": np.array(mask, np.int32)}, parameters)


def test_a_step_asked_by_itself_takes_no_row_without_a_token_and_none_that_was_not_counted() -> None:
    own = EngineSettings(INPUTS, 0, True, (), longest=4)
    check_tokens(tokens([[1, 1], [1, 0]]), own)
    with pytest.raises(InvalidInput, match="attention_mask has a row without a token"):
        check_tokens(tokens([[1, 1], [0, 0]]), own)
    with pytest.raises(InvalidInput, match="tritext-count-only gets TOKEN_COUNT alone"):
        check_tokens(tokens([[1, 1]], **{contract.COUNT_ONLY: True}), own)
