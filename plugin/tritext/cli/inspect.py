"""`tritext inspect`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tritext import repository
from tritext.cli.overrides import (
    LabelsOption,
    MaxLengthOption,
    PoolingOption,
    ProblemTypeOption,
    RevisionOption,
    TaskOption,
    TokenizerOption,
    names_in,
)
from tritext.errors import BuildError
from tritext.manifest import Manifest


def inspect(
    target: Annotated[str, typer.Argument(metavar="CHECKPOINT|REPO", help="A checkpoint or a model repository.")],
    revision: RevisionOption = None,
    task: TaskOption = None,
    labels: LabelsOption = None,
    problem_type: ProblemTypeOption = None,
    max_length: MaxLengthOption = None,
    tokenizer: TokenizerOption = None,
    pooling: PoolingOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what would be built of a CHECKPOINT, or what was built into a REPO.

    The exit code is 1 where files of a REPO are missing or changed.
    """
    folder = Path(target)
    if folder.is_dir() and not (folder / "config.json").is_file():
        models = repository.models(folder)
        if not models:
            raise BuildError(f"{target} holds neither a checkpoint (config.json) nor a model that tritext built.")
        found = [(model.manifest(), model.damage()) for model in models]
        documents = [{**asdict(manifest), "damage": damage} for manifest, damage in found]
        _show([_built(*each) for each in found], documents, as_json=as_json)
        if any(damage for _, damage in found):
            raise typer.Exit(1)
    else:
        facts = _read_checkpoint(
            target, revision, (task, names_in(labels), problem_type, max_length, tokenizer, pooling)
        )
        _show([facts], [facts], as_json=as_json)


def _read_checkpoint(target: str, revision: str | None, overrides: tuple[Any, ...]) -> dict[str, Any]:
    try:
        from tritext.build.source import locate

        source = locate(target, revision)
        from tritext.build.checkpoint import Overrides, inspect
    except ImportError as error:
        raise BuildError(
            f"Reading a checkpoint needs {error.name}, which is not installed. Install it with: "
            "pip install 'tritext[build]'"
        ) from error
    facts, _ = inspect(source, Overrides(*overrides))
    return {
        "checkpoint": facts.source.name,
        "revision": facts.source.revision,
        "architecture": facts.architecture,
        "task": facts.task,
        "labels": list(facts.labels),
        "problem_type": facts.problem_type,
        **({"pooling": facts.sentences.pooling} if facts.sentences else {}),
        "max_length": facts.max_length,
        "tokenizer": f"{facts.tokenizer_class}, {facts.vocabulary} tokens",
    }


def _built(manifest: Manifest, damage: list[str]) -> dict[str, Any]:
    parity, checkpoint = manifest.parity, manifest.checkpoint
    revision = f" at {checkpoint['revision']}" if checkpoint["revision"] else ""
    return {
        "model": manifest.name,
        "build": f"{manifest.build}, {manifest.created}, tritext {manifest.tritext}",
        "checkpoint": f"{checkpoint['source']}{revision} ({checkpoint['architecture']})",
        "task": manifest.task,
        "labels": list(manifest.labels),
        "problem_type": manifest.problem_type,
        "max_length": manifest.max_length,
        "max_batch_size": manifest.max_batch_size,
        "engine": " ".join(str(value) for value in manifest.engine.values()),
        "parity": f"{parity['texts']} texts: ids identical, labels {parity['labels_agree']}/{parity['labels']}, logits "
        f"within {parity['max_logit_difference']:.1e}",
        "files": f"missing or changed: {', '.join(damage)}" if damage else f"{len(manifest.files)}, as they were built",
    }


def _show(tables: list[dict[str, Any]], documents: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(documents, indent=2, ensure_ascii=False))
        return
    console = Console()
    for facts in tables:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold")
        table.add_column()
        for key, value in facts.items():
            table.add_row(key.replace("_", " "), Text(_text(value)))
        console.print(table)
        console.print()


def _text(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(value[:12])
        return shown if len(value) <= 12 else f"{shown}, … ({len(value)} in all)"
    return "-" if value is None else str(value)
