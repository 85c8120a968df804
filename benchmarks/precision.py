"""What bf16 and int8 cost in accuracy and gain in speed, on mails that neither training nor calibration saw.

    python -m benchmarks.precision spam
    python -m benchmarks.precision pii

`spam` is trained here on four of the five folds of its cross-validation (some ten minutes, once; the shipped weights
know all mails) and judged on the mails of the fifth: held-out accuracy of each precision, and how many labels are
those of fp32. `pii` is somebody else's model without labelled texts at hand: how many token labels and whole entities
are those of fp32, on the same mails. int8 is calibrated on mails of the other four folds. Speeds are of full 16x128
batches, in turns.
"""

import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bare import Bare
from benchmarks.report import write
from demo import pii, spam
from demo.spam_train.data import CACHE, Mail, load_mails
from demo.spam_train.evaluate import split
from demo.spam_train.train import Recipe, examples_of, save_adapter, train_adapter
from tritext.build import BuildOptions, build
from tritext.build.gate import Bounds
from tritext.build.source import locate
from tritext.errors import TritextError
from tritext.pipeline import Pipeline
from tritext.repository import BuiltModel
from tritext.stages.base import Request

PRECISIONS = ("fp32", "bf16", "int8")
ROUNDS, CALIBRATING = 7, 400
LONGEST = 2000  # characters of a mail that `pii` reads
FOLD = Path(".demo/checkpoints/spam-fold-1")

Answers = list[list[tuple[str, float]]]


def fold_checkpoint(mails: Sequence[Mail], training: Sequence[int]) -> Path:
    """The spam classifier that has seen the mails `training` alone."""
    adapter = FOLD.with_suffix(".safetensors")
    if not adapter.exists():
        recipe = Recipe()
        examples = list(examples_of([mails[index] for index in training]))
        save_adapter(train_adapter(examples, recipe, "fold 1"), adapter, recipe)
    spam.ADAPTER = adapter
    return spam.build_checkpoint(FOLD)


def built(checkpoint: Path, folder: Path, texts: Sequence[str]) -> dict[str, BuiltModel]:
    """`checkpoint` in every precision, whatever the gate would say."""
    models = {}
    for precision in PRECISIONS:
        options = BuildOptions(
            precision, folder, engine="openvino", precision=precision, texts=texts, bounds=Bounds(0.0, 1e9)
        )
        models[precision] = build(locate(str(checkpoint)), options).model
    return models


def asked(model: BuiltModel, texts: Sequence[str], parameters: Mapping[str, object]) -> Answers:
    """Label and score of each answer to each text."""
    pipeline = Pipeline.load(model)
    answers: Answers = []
    for start in track(range(0, len(texts), 16), f"Asking {model.name}", console=Console(stderr=True)):
        column = np.array([[text.encode()] for text in texts[start : start + 16]], dtype=np.object_)
        (trace,) = pipeline.run([Request({"TEXT": column}, parameters)])
        if isinstance(trace, TritextError):
            raise trace
        found = trace.tensors
        for row, count in enumerate(found["COUNT"][:, 0]):
            labels = [label.decode() for label in found["LABEL"][row, :count]]
            if "START" in found:
                places = zip(found["START"][row, :count], found["END"][row, :count], strict=True)
                labels = [f"{label} {start}-{end}" for label, (start, end) in zip(labels, places, strict=True)]
            answers.append(list(zip(labels, found["SCORE"][row, :count].tolist(), strict=True)))
    return answers


def speeds(models: Mapping[str, BuiltModel]) -> dict[str, float]:
    """Tokens/s of full 16x128 batches, timed in turn."""
    bare = {precision: Bare(model) for precision, model in models.items()}
    calls = {precision: each.full(16, 128) for precision, each in bare.items()}
    found: dict[str, list[float]] = {precision: [] for precision in bare}
    for number in range(ROUNDS + 1):
        for precision, each in bare.items():
            speed = each.tokens_per_second(calls[precision], 0.5)
            if number:
                found[precision].append(speed)
    return {precision: statistics.median(values) for precision, values in found.items()}


def agreement(answers: Answers, exact: Answers) -> float:
    """Share of labels (of entities with their places: F1) that are the same."""
    same = total = 0
    for got, expected in zip(answers, exact, strict=True):
        mine, theirs = {label for label, _ in got}, {label for label, _ in expected}
        same, total = same + 2 * len(mine & theirs), total + len(mine) + len(theirs)
    return same / total


def drift(answers: Answers, exact: Answers) -> list[float]:
    """Absolute differences of the scores of labels that both have."""
    pairs = [(dict(got), dict(expected)) for got, expected in zip(answers, exact, strict=True)]
    return [abs(got[label] - expected[label]) for got, expected in pairs for label in got.keys() & expected.keys()]


def main(name: str) -> None:
    """Measure, print a table, keep the figures."""
    mails = load_mails(CACHE)
    training, held_out = split(mails, 5, Recipe.seed)[0]
    random = np.random.default_rng(0)
    calibrating = [mails[index].text[:LONGEST] for index in random.choice(training, CALIBRATING, replace=False)]
    judged = [mails[index] for index in held_out]
    with tempfile.TemporaryDirectory() as temporary:
        if name == "spam":
            checkpoint, parameters = fold_checkpoint(mails, training.tolist()), {"top_k": "all"}
            texts = [mail.text for mail in judged]
        else:
            checkpoint, parameters = pii.build_checkpoint(Path(".demo/checkpoints/pii")), {"ignore_labels": "[]"}
            texts = [mail.text[:LONGEST] for mail in judged]
        models = built(checkpoint, Path(temporary), calibrating)
        answers = {precision: asked(model, texts, parameters) for precision, model in models.items()}
        if name == "pii":
            grouped = {"aggregation_strategy": "first"}
            entities = {precision: asked(model, texts, grouped) for precision, model in models.items()}
        speed = speeds(models)
    figures: dict[str, dict[str, float]] = {}
    for precision, got in answers.items():
        best = [row[:1] for row in got] if name == "spam" else got
        exact = [row[:1] for row in answers["fp32"]] if name == "spam" else answers["fp32"]
        moved = drift(got, answers["fp32"])
        figures[precision] = {
            "tokens_per_second": speed[precision],
            "speedup": speed[precision] / speed["fp32"],
            "labels_equal": agreement(best, exact),
            "drift_p99": float(np.percentile(moved, 99)),
            "drift_mean": float(np.mean(moved)),
        }
        if name == "spam":
            right = [row[0][0] == spam.LABELS[mail.label] for row, mail in zip(got, judged, strict=True)]
            figures[precision]["held_out_accuracy"] = float(np.mean(right))
        else:
            figures[precision]["entities_equal_f1"] = agreement(entities[precision], entities["fp32"])
    table = Table("precision", *figures["fp32"], title=f"{name}, OpenVINO, {len(texts)} held-out mails")
    for precision, row in figures.items():
        table.add_row(precision, *(f"{value:,.0f}" if value > 100 else f"{value:.4f}" for value in row.values()))
    Console().print(table)
    write(f"precision-{name}", f"python -m benchmarks.precision {name}", {"texts": len(texts), "precisions": figures})


if __name__ == "__main__":
    if sys.argv[1:] not in (["spam"], ["pii"]):
        raise SystemExit("usage: python -m benchmarks.precision spam | pii")
    main(sys.argv[1])
