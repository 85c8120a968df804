"""Exact match and F1 of a served question-answering model on SQuAD 1.1 or 2.0, whose files you bring.

    python -m benchmarks.squad dev-v2.0.json --model NAME --url localhost:8001

The metrics are the official ones, by their definition: answers are compared in lower case, without punctuation, without
the articles a, an and the, and with their white space narrowed. A prediction counts with the gold answer that it fits
best; F1 is over the words that both have. A question without an answer is right when nothing is predicted, and only
then. Rajpurkar et al., "SQuAD: 100,000+ Questions" (2016) and "Know What You Don't Know" (2018).
"""

import argparse
import json
import re
import string
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tritext import Client

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class Question:
    """One of a data set; `answers` is empty where the context has none."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]


def questions(document: Mapping[str, Any]) -> Iterator[Question]:
    """Of a file as SQuAD 1.1 and 2.0 have it."""
    for article in document["data"]:
        for paragraph in article["paragraphs"]:
            for each in paragraph["qas"]:
                answers = () if each.get("is_impossible") else tuple(answer["text"] for answer in each["answers"])
                yield Question(each["id"], each["question"], paragraph["context"], answers)


def normalised(text: str) -> str:
    """As two answers are compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(predicted: str, gold: str) -> float:
    """1 where they are the same, else 0."""
    return float(normalised(predicted) == normalised(gold))


def f1(predicted: str, gold: str) -> float:
    """The harmonic mean of precision and recall of words."""
    mine, theirs = normalised(predicted).split(), normalised(gold).split()
    if not mine or not theirs:
        return float(mine == theirs)
    same = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * same / (len(mine) + len(theirs))


def score(asked: Sequence[Question], predictions: Mapping[str, str]) -> dict[str, Any]:
    """Percentages over all questions, and over those with and without an answer; one that lacks a prediction is wrong.

    A question that has several gold answers has those that are not empty when they are normalised.
    """
    points: dict[str, list[tuple[float, float]]] = {"": [], "HasAns_": [], "NoAns_": []}
    for each in asked:
        gold = [answer for answer in each.answers if normalised(answer)] or [""]
        said = predictions.get(each.id)
        found = (0.0, 0.0) if said is None else (max(exact(said, g) for g in gold), max(f1(said, g) for g in gold))
        points[""].append(found)
        points["HasAns_" if each.answers else "NoAns_"].append(found)
    return {
        f"{kind}{name}": 100 * sum(pair[place] for pair in pairs) / len(pairs) if name != "total" else len(pairs)
        for kind, pairs in points.items()
        if pairs
        for place, name in enumerate(("exact", "f1", "total"))
    }


def main(arguments: Sequence[str]) -> None:
    """Ask, score and print a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("file", type=Path, help="such as dev-v1.1.json or dev-v2.0.json")
    parser.add_argument("--model", required=True)
    parser.add_argument("--url", default="localhost:8001", help="HOST:PORT of gRPC")
    parser.add_argument("--predictions", type=Path, help="write them here, by question id")
    given = parser.parse_args(arguments)
    asked = list(questions(json.loads(given.file.read_text(encoding="utf-8"))))
    is_second = any(not each.answers for each in asked)
    begun = time.monotonic()
    with Client(given.url, timeout=600) as client:
        results = client.classify_iter(
            given.model, [(each.question, each.context) for each in asked], handle_impossible_answer=is_second
        )
        found: dict[str, Any] = {each.id: result for each, result in zip(asked, results, strict=True)}
    predictions = {name: result.answers[0].answer if result.answers else "" for name, result in found.items()}
    if given.predictions:
        given.predictions.write_text(json.dumps(predictions, ensure_ascii=False), encoding="utf-8")
    print(json.dumps({**score(asked, predictions), "seconds": round(time.monotonic() - begun, 1)}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
