"""The last step: logits in, labels out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tritext import contract
from tritext.errors import TritextError
from tritext.parameters import Reader
from tritext.settings import TaskSettings
from tritext.stages.base import Answer, Request
from tritext.tasks import task_named
from tritext.tasks.base import Task


class PostprocessStage:
    """Runs the task's `answer` on each request."""

    def __init__(self, settings: TaskSettings, task: Task) -> None:
        self._settings = settings
        self._task = task
        self._parameters = Reader(task.parameters, settings.defaults)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Make the stage from its version folder (``settings.json``, and what the task needs there)."""
        settings = TaskSettings.read(folder)
        return cls(settings, task_named(settings.task).load(folder))

    def process(self, requests: Sequence[Request]) -> list[Answer | TritextError]:
        """The task's outputs for each request; its parameters were already judged by the first step."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        read = self._parameters.read(request.parameters)
        return self._task.answer(request.inputs[contract.LOGITS.name], request.inputs, self._settings, read)
