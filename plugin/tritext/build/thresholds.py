"""Thresholds for each label of a text classifier, chosen by the user on data of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritext.build.checkpoint import Facts
from tritext.contract import TEXT_CLASSIFICATION
from tritext.errors import BuildError
from tritext.stored import read_json
from tritext.tasks.text_classification import THRESHOLDS


def read(path: Path) -> dict[str, float]:
    """What the file at `path` says, {label: threshold}; BuildError where it says something else."""
    try:
        said = read_json(path)
    except (OSError, ValueError) as error:
        raise BuildError(f"--thresholds {path} is not JSON: {error}") from error
    if not isinstance(said, dict) or not said:
        raise BuildError(f'--thresholds {path} is no JSON object such as {{"spam": 0.8}}.')
    for label, threshold in said.items():
        is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
        if not (is_number and 0 <= threshold <= 1):
            raise BuildError(
                f"--thresholds {path} has {label}: {str(threshold)[:40]}; it must be a number from 0 to 1."
            )
    return {label: float(threshold) for label, threshold in said.items()}


def by_class(thresholds: Mapping[str, float] | None, facts: Facts) -> dict[str, Any]:
    """The task's option, by class index; BuildError where the checkpoint has other labels, or no scores for them."""
    if thresholds is None:
        return {}
    if facts.task != TEXT_CLASSIFICATION or facts.problem_type == "regression":
        what = facts.problem_type if facts.task == TEXT_CLASSIFICATION else facts.task
        raise BuildError(f"--thresholds are for text classification into labels; this is {what}. Leave them out.")
    unknown = ", ".join(label for label in thresholds if label not in facts.labels)
    if unknown:
        raise BuildError(f"--thresholds names {unknown}, which the checkpoint has not: {', '.join(facts.labels)}.")
    missing = ", ".join(label for label in facts.labels if label not in thresholds)
    if missing:
        raise BuildError(f"--thresholds does not name {missing}. Give each label one; 0 always answers it.")
    return {THRESHOLDS: [thresholds[label] for label in facts.labels]}


def defaults(thresholds: Mapping[str, float] | None) -> dict[str, Any]:
    """Of request parameters: a text may have any number of labels."""
    return {} if thresholds is None else {"top_k": "all"}
