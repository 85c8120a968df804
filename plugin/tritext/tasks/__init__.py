"""The tasks, by name."""

from collections.abc import Mapping
from typing import Final

from tritext.errors import CheckpointError
from tritext.tasks import (
    feature_extraction,
    fill_mask,
    question_answering,
    reranking,
    text_classification,
    token_classification,
    zero_shot_classification,
)
from tritext.tasks.base import Task

TASKS: Final[Mapping[str, Task]] = {
    task.name: task
    for task in (
        text_classification.TASK,
        token_classification.TASK,
        feature_extraction.TASK,
        fill_mask.TASK,
        zero_shot_classification.TASK,
        reranking.TASK,
        question_answering.TASK,
    )
}


def task_named(name: str) -> Task:
    """The task called `name`; CheckpointError names the ones there are."""
    if name not in TASKS:
        raise CheckpointError(f"Task {name!r} is not supported. Supported tasks: {', '.join(TASKS)}.")
    return TASKS[name]
