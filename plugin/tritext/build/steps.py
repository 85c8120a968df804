"""The version folders of a build's steps: what each stage reads when it is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tritext.build import thresholds
from tritext.build.checkpoint import Facts
from tritext.build.config import templates
from tritext.build.options import BuildOptions
from tritext.build.sentences import CONFIG
from tritext.engines.base import Artefact
from tritext.naming import ROLES
from tritext.repository import VERSION
from tritext.settings import TOKENIZER, TaskSettings
from tritext.tasks import task_named


def settings_for(
    facts: Facts, tokenizer: PreTrainedTokenizerBase, inputs: tuple[str, ...], options: BuildOptions
) -> TaskSettings:
    """What the tokenizer and the postprocess stage must know; `inputs` are the graph's."""
    # The user's defaults come over the side that the checkpoint's own tokenizer is set to cut.
    is_cut = task_named(facts.task).cut != "only_second"  # which is split instead
    side = {"truncation": "left"} if tokenizer.truncation_side == "left" and is_cut else {}
    return TaskSettings(
        task=facts.task,
        labels=facts.labels,
        problem_type=facts.problem_type,
        max_length=facts.max_length,
        encoder_inputs=inputs,
        pad_id=int(tokenizer.pad_token_id or 0),
        unk_id=tokenizer.unk_token_id,
        defaults={**side, **_defaults(facts), **thresholds.defaults(options.thresholds), **options.defaults},
        mask_id=tokenizer.mask_token_id if task_named(facts.task).per == "mask" else None,
        options={**_options(facts, tokenizer), **thresholds.by_class(options.thresholds, facts)},
    )


def _defaults(facts: Facts) -> dict[str, Any]:
    """Request parameters' defaults that the checkpoint itself names."""
    if facts.sentences is not None:
        return {"normalize": facts.sentences.normalize}
    files = [path for name in ("config.json", CONFIG) if (path := facts.source.folder / name).is_file()]
    said: dict[str, Any] = {}
    for file in files:
        said |= json.loads(file.read_text(encoding="utf-8"))
    return task_named(facts.task).defaults(said)


def _options(facts: Facts, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What else tasks have to know of the checkpoint."""
    if facts.sentences is not None:
        return {"prompts": facts.sentences.prompts, "default_prompt": facts.sentences.default_prompt}
    if task_named(facts.task).per != "mask":
        return {}
    is_bpe = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"  # whose spaces transformers leaves alone
    return {"mask_token": tokenizer.mask_token, "clean_up": bool(tokenizer.clean_up_tokenization_spaces) and not is_bpe}


def write_steps(staged: Path, settings: TaskSettings, tokenizer: PreTrainedTokenizerBase, artefact: Artefact) -> None:
    """Write all but what is the encoder's own, and the configurations."""
    folders = {role: staged / role / VERSION for role in ROLES}
    settings.write(folders["tokenizer"])
    settings.write(folders["postprocess"])
    # Not by its own `save`, whose errors are nameless.
    text = tokenizer.backend_tokenizer.to_str()
    (folders["tokenizer"] / TOKENIZER).write_text(text, encoding="utf-8")
    if task_named(settings.task).needs_tokenizer():
        (folders["postprocess"] / TOKENIZER).write_text(text, encoding="utf-8")
    for role, folder in folders.items():
        template = artefact.encoder_template if role == "encoder" else role
        source = templates() / "models" / template / VERSION / "model.py"
        if source.is_file():
            shutil.copyfile(source, folder / "model.py")
