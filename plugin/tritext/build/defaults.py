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
from tritext.errors import BuildError, CheckpointError, InvalidInput
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
    except InvalidInput as error:
        raise BuildError(f"A --default cannot be. {error}") from error
    if fault := _fault(facts, tokenizer, options):
        if own := _fault(facts, tokenizer, replace(options, defaults={})):
            raise CheckpointError(f"A default that {facts.source.name} asks for cannot be. {own}") from own
        raise BuildError(f"A --default cannot be. {fault}") from fault


def _fault(facts: Facts, tokenizer: PreTrainedTokenizerBase, options: BuildOptions) -> InvalidInput | None:
    """Why every request is refused that says nothing else; None where one would be so without any defaults too."""
    try:
        settings = settings_for(facts, tokenizer, (), options)
        others = {name: value for name, value in settings.options.items() if name != "default_prompt"}
        without = replace(settings, defaults={}, options=others)
        refusal = _refusal(settings, tokenizer) if without != settings else None
        return None if refusal and _refusal(without, tokenizer) else refusal
    except InvalidInput as error:
        return error


def _refusal(settings: TaskSettings, tokenizer: PreTrainedTokenizerBase) -> InvalidInput | None:
    """What the tokenizer step has against a request without parameters."""
    with TemporaryDirectory() as made:
        folder = Path(made)
        (folder / TOKENIZER).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
        replace(settings, most_rows=contract.MOST_ROWS).write(folder)
        answer = TokenizerStage.load(folder).process([_request(settings)])[0]
    return answer if isinstance(answer, InvalidInput) else None


def _request(settings: TaskSettings) -> Request:
    """One without parameters. Where long texts become windows its text is long: a stride may leave them no room."""
    task = task_named(settings.task)
    text = task.sample(settings) or _TEXT
    usual = parameters.parse(task.parameters, {}, settings.defaults)
    long = f"{text} " * (settings.max_length if usual.truncation == "window" else 1)
    has_two = task.expands or task.cut == "only_second"
    inputs, _ = task.request(text, long, settings) if has_two else task.request(long, None, settings)
    return Request(inputs)
