"""Do the defaults of request parameters let a request through? One is asked, before the build does any work."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from transformers import PreTrainedTokenizerBase

from tritext import contract, parameters
from tritext.build.checkpoint import Facts
from tritext.build.options import BuildOptions
from tritext.build.steps import settings_for
from tritext.errors import BuildError, CheckpointError, InvalidInput, TritextError
from tritext.settings import TOKENIZER, TaskSettings
from tritext.stages.base import Request
from tritext.stages.tokenizer import TokenizerStage
from tritext.tasks import task_named

_TEXT: Final = "Who?"  # as short as a question may be


def check(facts: Facts, tokenizer: PreTrainedTokenizerBase, options: BuildOptions) -> None:
    """BuildError where a default is none, or has every request refused that does not say otherwise.

    CheckpointError where it is one of the checkpoint's own.
    """
    try:
        parameters.check_defaults(task_named(facts.task).parameters, options.defaults)
        settings = settings_for(facts, tokenizer, (), options)
        others = {name: value for name, value in settings.options.items() if name != "default_prompt"}
        without = replace(settings, defaults={}, options=others)
        if without != settings and (fault := _fault(settings, tokenizer)) and not _fault(without, tokenizer):
            raise fault
    except InvalidInput as error:
        if options.defaults:
            raise BuildError(f"A --default cannot be. {error}") from error
        raise CheckpointError(f"A default that {facts.source.name} asks for cannot be. {error}") from error


def _fault(settings: TaskSettings, tokenizer: PreTrainedTokenizerBase) -> TritextError | None:
    """What the tokenizer step has against a request without parameters."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        (folder / TOKENIZER).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
        replace(settings, most_rows=contract.MOST_ROWS).write(folder)
        answer = TokenizerStage.load(folder).process([_request(settings)])[0]
    return answer if isinstance(answer, TritextError) else None


def _request(settings: TaskSettings) -> Request:
    """One without parameters. Where long texts become windows its text is long: a stride may leave them no room."""
    task = task_named(settings.task)
    text = task.sample(settings) or _TEXT
    usual = parameters.parse(task.parameters, {}, settings.defaults)
    long = f"{text} " * (settings.max_length if usual.truncation == "window" else 1)
    has_two = task.expands or task.cut == "only_second"
    inputs, _ = task.request(text, long, settings) if has_two else task.request(long, None, settings)
    return Request(inputs)
