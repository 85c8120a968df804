"""The official metrics of SQuAD on a small file, with figures that were counted by hand."""

import pytest

from benchmarks.squad import f1, questions, score


def answer(text: str) -> dict[str, object]:
    return {"text": text, "answer_start": 0}


FILE = {
    "version": "v2.0",
    "data": [
        {
            "title": "Normandy",
            "paragraphs": [
                {
                    "context": "In the 10th and 11th centuries, in France.",
                    "qas": [
                        {"id": "1", "question": "Where?", "is_impossible": False,
                         "answers": [answer("France"), answer("in France.")]},
                        {"id": "2", "question": "When?", "is_impossible": False,
                         "answers": [answer("the 10th and 11th centuries"), answer("10th")]},
                        {"id": "3", "question": "Who?", "is_impossible": True, "answers": [],
                         "plausible_answers": [answer("France")]},
                        {"id": "4", "question": "Why?", "is_impossible": True, "answers": []},
                        {"id": "5", "question": "Which article?", "is_impossible": False, "answers": [answer("the")]},
                    ],
                }
            ],
        }
    ],
}  # fmt: skip


def test_scores_are_those_of_the_official_metrics() -> None:
    asked = list(questions(FILE))
    found = score(asked, {"1": "In the  FRANCE!", "2": "11th centuries", "3": "", "4": "France", "5": ""})
    assert [each.answers for each in asked][2:4] == [(), ()]
    # 1: "in france" is one gold answer. 2: two of two and two of four words. 5: nothing is left of the gold answer.
    assert found == {
        "exact": 60.0, "f1": pytest.approx(100 * (1 + 2 / 3 + 1 + 0 + 1) / 5), "total": 5,
        "HasAns_exact": pytest.approx(200 / 3), "HasAns_f1": pytest.approx(100 * (1 + 2 / 3 + 1) / 3),
        "HasAns_total": 3, "NoAns_exact": 50.0, "NoAns_f1": 50.0, "NoAns_total": 2,
    }  # fmt: skip


def test_words_count_as_often_as_both_have_them() -> None:
    assert f1("very very good", "very good food") == pytest.approx(2 * 2 / 6)
    assert f1("a cat", "the dog") == 0.0


def test_a_question_without_a_prediction_is_wrong() -> None:
    asked = [each for each in questions(FILE) if each.id in {"1", "3"}]
    assert score(asked, {"1": "France"})["exact"] == 50.0


def test_version_1_has_no_impossible_questions() -> None:
    first = {"id": "1", "question": "Where?", "answers": [answer("France")]}
    document = {"version": "1.1", "data": [{"paragraphs": [{"context": "France", "qas": [first]}]}]}
    found = score(list(questions(document)), {"1": "france"})
    assert found == {
        **dict.fromkeys(("exact", "f1", "HasAns_exact", "HasAns_f1"), 100.0),
        "total": 1,
        "HasAns_total": 1,
    }
