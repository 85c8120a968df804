"""In which form models are judged by texts: each task asks something of each, and the user's pairs are not changed."""

import json
from importlib import resources

import numpy as np
import pytest

from tritext.settings import TaskSettings
from tritext.tasks import task_named
from tritext.text.inputs import TextInput

MASK = "[MASK]"
PARAGRAPHS: dict[str, list[str]] = json.loads(
    resources.files("tritext.build").joinpath("paragraphs.json").read_text(encoding="utf-8")
)["languages"]


def references(task: str, texts: list[TextInput]) -> list[TextInput]:
    return task_named(task).references(texts, MASK)


@pytest.mark.parametrize("language", PARAGRAPHS)
def test_a_mask_leaves_most_of_a_text_in_every_language(language: str) -> None:
    texts = PARAGRAPHS[language]
    made = [text for text in references("fill-mask", list(texts)) if isinstance(text, str)]
    assert len(set(made)) == len(set(texts))
    assert all(1 <= text.count(MASK) <= 2 for text in made)
    for text, masked in zip(texts, made, strict=True):
        assert 2 * len(masked.replace(MASK, "")) >= len(text[:400]) - 12, text


def test_a_character_is_masked_where_there_are_no_words() -> None:
    texts: list[TextInput] = ["", "我今天去北京大学上课", "这家餐馆的菜很好吃", "人" * 900, "four words of English"]
    assert references("fill-mask", texts) == [
        MASK,
        f"我今天去北{MASK}大学上课",
        f"这家餐馆{MASK}菜很好吃",
        f"{'人' * 8}{MASK}{'人' * 3}{MASK}{'人' * 387}",
        f"four words {MASK} English",
    ]


@pytest.mark.parametrize("task", ["reranking", "question-answering", "zero-shot-classification"])
def test_pairs_are_judged_as_they_are_and_single_texts_get_another(task: str) -> None:
    mine: list[TextInput] = [(f"who is number {number}", f"this is number {number}") for number in range(20)]
    assert references(task, mine) == mine
    mixed = references(task, ["a first text of some words", *mine, "the second text of some words"])
    assert mixed[1:-1] == mine
    (first, _), (last, _) = (pair for pair in (mixed[0], mixed[-1]) if isinstance(pair, tuple))
    assert first != last


def test_what_a_question_cannot_be_asked_about_is_left_out() -> None:
    assert references("question-answering", ["", ("", "a context"), ("who", " "), ("who", "a context")]) == [
        ("who", "a context")
    ]


def test_a_single_class_is_always_the_one() -> None:
    task = task_named("token-classification")
    settings = TaskSettings(task.name, ("only",), None, 64, ("input_ids",), 0, None)
    decisions, margins = task.decisions(np.array([[3.0], [-3.0]], dtype=np.float32), settings)
    assert decisions.tolist() == [0, 0]
    assert (margins > 1e9).all()
