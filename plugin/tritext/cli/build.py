"""`tritext build`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console

from tritext.cli.overrides import (
    LabelsOption,
    MaxLengthOption,
    ProblemTypeOption,
    RevisionOption,
    TaskOption,
    TokenizerOption,
    names_in,
)
from tritext.cli.progress import TerminalProgress
from tritext.errors import BuildError

if TYPE_CHECKING:
    from tritext.engines.base import Precision


def build(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A directory that `save_pretrained` wrote, or a hub id.")
    ],
    name: Annotated[str, typer.Option(help="The model's name, which clients call.")],
    out: Annotated[Path, typer.Option(help="The model repository; made where it is missing.")],
    revision: RevisionOption = None,
    engine: Annotated[str, typer.Option(help="openvino or onnxruntime.")] = "openvino",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    task: TaskOption = None,
    labels: LabelsOption = None,
    problem_type: ProblemTypeOption = None,
    max_length: MaxLengthOption = None,
    tokenizer: TokenizerOption = None,
    max_batch_size: Annotated[int, typer.Option(help="Most texts a request.")] = 256,
    default: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Default of a request parameter, e.g. truncation=error."),
    ] = None,
    force: Annotated[bool, typer.Option(help="Build even where nothing changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Build CHECKPOINT into a Triton model repository, and check its answers against the checkpoint's own."""
    try:
        from tritext.build.source import locate

        source = locate(checkpoint, revision)  # before what takes seconds to import
        from tritext.build import BuildOptions
        from tritext.build import build as run_build
        from tritext.build.checkpoint import Overrides
    except ImportError as error:
        raise BuildError(
            f"Building needs {error.name}, which is not installed. Install it with: pip install 'tritext[build]'"
        ) from error
    options = BuildOptions(
        name=name,
        repository=out,
        engine=engine,
        precision=cast("Precision", precision),  # the build refuses what it does not have
        max_batch_size=max_batch_size,
        overrides=Overrides(task, names_in(labels), problem_type, max_length, tokenizer),
        defaults=_defaults(default or []),
        force=force,
    )
    with TerminalProgress(Console(stderr=True)) as progress:
        result = run_build(source, options, progress)
    typer.echo(result.manifest.to_json() if as_json else _summary(result.model.name, out, changed=result.changed))


def _defaults(pairs: list[str]) -> dict[str, Any]:
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair!r} has no '='", param_hint="--default")
    return dict(pair.split("=", 1) for pair in pairs)


def _summary(name: str, out: Path, *, changed: bool) -> str:
    verb = "Built" if changed else "Already built, nothing changed:"
    return f"{verb} {name}. Serve it with: tritext serve {shlex.quote(str(out))}"
