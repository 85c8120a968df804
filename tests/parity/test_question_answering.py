"""Answers are those of the question-answering pipeline of transformers 4.57, which `golden` keeps."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from questions import GOLDEN, MODELS, Case, cases, digest_of, make_checkpoint
from serving import Served, serving

from benchmarks import squad
from building import quick_build
from tritext import Client
from tritext.cli import app
from tritext.client import Answers
from tritext.errors import InvalidInput

SCORE_TOLERANCE = 1e-5  # what was asked for is 1e-4
ENGINES = {"roberta": "onnxruntime"}  # the others: OpenVINO
CONTEXT = "Sie wohnt in Zürich 🏔️, er in กรุงเทพฯ. " * 40


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("spans")
    return {name: make_checkpoint(root / name, name) for name in MODELS}


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("models")
    for name, folder in folders.items():
        quick_build(folder, repository, name, engine=ENGINES.get(name, "openvino"))
    with serving(repository) as served:
        yield served


def answers(tensors: dict[str, Any]) -> list[list[tuple[str, float, int, int]]]:
    columns = [tensors[name] for name in ("ANSWER", "SCORE", "START", "END")]
    return [
        [(answer.decode(), float(score), int(start), int(end))
         for answer, score, start, end in zip(*(column[row, :count] for column in columns), strict=True)]
        for row, count in enumerate(tensors["COUNT"][:, 0])
    ]  # fmt: skip


def ask(served: Served, model: str, asked: list[Case]) -> list[list[tuple[str, float, int, int]]]:
    """All in one request."""
    rows = {"QUESTION": [[case.question] for case in asked], "CONTEXT": [[case.context] for case in asked]}
    return answers(served.infer(model, rows, **asked[0].options))


def check(got: list[tuple[str, float, int, int]], golden: list[tuple[float, int, int]], case: Case) -> None:
    assert [(answer, start, end) for answer, _, start, end in got] == [
        (case.context[start:end], start, end) for _, start, end in golden
    ], case
    assert [score for _, score, *_ in got] == [pytest.approx(each[0], abs=SCORE_TOLERANCE) for each in golden], case


@pytest.mark.parametrize("model", MODELS)
def test_answers_are_the_pipelines(model: str, served: Served, folders: dict[str, Path]) -> None:
    asked, golden = cases(model), json.loads(GOLDEN.read_text(encoding="utf-8"))[model]
    assert golden["of"] == digest_of(folders[model], asked), "golden answers to something else: make them anew"
    expected = {int(number): found for number, found in golden["answers"].items()}

    def options(number: int) -> str:
        return json.dumps(asked[number].options, sort_keys=True)

    possible = sorted((number for number, found in expected.items() if isinstance(found, list)), key=options)
    windows = 0
    for _, group in itertools.groupby(possible, key=options):
        numbers = list(group)
        for number, got in zip(numbers, ask(served, model, [asked[number] for number in numbers]), strict=True):
            check(got, expected[number], asked[number])
            windows += 1
    assert windows > 60
    for number in expected.keys() - set(possible):  # where the pipeline fails inside, one is told why
        with pytest.raises(
            InvalidInput, match=r"leaves none of a window's tokens|The stride of \d+ tokens is too large"
        ):
            ask(served, model, [asked[number]])


def test_the_client_asks_many_questions(served: Served) -> None:
    question = "Wo wohnt er?"
    (expected,) = ask(served, "bert", [Case(question, CONTEXT, {"top_k": 3})])
    assert len(expected) == 3
    with Client(served.server.grpc_url) as client:
        results = client.classify("bert", [(question, CONTEXT)] * 40, result_type=Answers, top_k=3)
    found = [(each.answer, each.start, each.end) for each in results[-1].answers]
    assert found == [(answer, start, end) for answer, _, start, end in expected]
    assert results[0].token_count > 500


def test_people_read_answers_in_tables(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    sent = ["classify", "bert", "Wo wohnt er?", "--pair", CONTEXT, "--top-k", "2", "--url", served.server.grpc_url]
    ((best, *_), (second, *_)) = ask(served, "bert", [Case("Wo wohnt er?", CONTEXT, {"top_k": 2})])[0]
    app(sent, standalone_mode=False)
    assert best[:20] in capsys.readouterr().out
    app([*sent, "--output-format", "csv"], standalone_mode=False)
    (line,) = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (line["label"], line["label_2"]) == (best, second)


def test_a_question_is_answered_as_if_it_were_alone(served: Served) -> None:
    together = [Case("Wer?", CONTEXT, {}), Case("Wo wohnt sie?", "In Zürich.", {}), Case("Was?", " \n", {})]
    got = ask(served, "xlm-roberta", together)
    assert got[2] == []
    for case, mine in zip(together, got, strict=True):
        (alone,) = ask(served, "xlm-roberta", [case])
        check(mine, [(score, start, end) for _, score, start, end in alone], case)


@pytest.mark.parametrize(
    ("question", "context", "parameters", "sentence"),
    [
        ("", "a", {}, r"QUESTION\[1\] is empty"),
        ("a", "", {}, r"CONTEXT\[1\] is empty"),
        ("word " * 200, "a", {}, r"QUESTION\[1\] leaves none of a window's tokens to CONTEXT\[1\]"),
        ("word " * 35, CONTEXT, {}, r"The stride of 64 tokens is too large: a window has \d+ of CONTEXT\[1\]"),
        ("a", "a", {"doc_stride": 64, "max_seq_len": 64}, "doc_stride is 64; it must be less than max_seq_len"),
        ("a", "a", {"max_seq_len": 500}, "max_seq_len is 500; this model takes 128 tokens"),
        ("a", "a", {"top_k": 101}, "top_k is 101; it must be a whole number from 1 to 100"),
        ("a", "a", {"max_answer_len": 3}, "max_answer_len' is unknown. Did you mean max_answer_length"),
        ("a", "a", {"truncation": "left"}, "truncation is 'left'; it must be one of window"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    question: str, context: str, parameters: dict[str, Any], sentence: str, served: Served
) -> None:
    rows = {"QUESTION": [["Wer?"], [question]], "CONTEXT": [["ich"], [context]]}
    with pytest.raises(InvalidInput, match=sentence):
        served.infer("bert", rows, **parameters)


def test_squad_is_scored_end_to_end(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ((best, *_),) = ask(served, "bert", [Case("Wo?", CONTEXT, {})])
    question = {"id": "a", "question": "Wo?", "answers": [{"text": f"the {best[0].upper()}!", "answer_start": 0}]}
    document = {"data": [{"paragraphs": [{"context": CONTEXT, "qas": [question]}]}]}
    (tmp_path / "dev.json").write_text(json.dumps(document))
    squad.main([str(tmp_path / "dev.json"), "--model", "bert", "--url", served.server.grpc_url])
    assert json.loads(capsys.readouterr().out)["exact"] == 100.0
