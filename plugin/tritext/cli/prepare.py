"""`tritext prepare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tritext.cli.progress import TerminalProgress
from tritext.engines.plan import PLAN

if TYPE_CHECKING:
    from tritext.serve.prepare import Prepared


def prepare(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="The model repository that `build` made.")],
    model: Annotated[list[str] | None, typer.Option(metavar="NAME", help="This model only; repeatable.")] = None,
    check: Annotated[
        bool, typer.Option(help="Ask each plan for the checkpoint's answers, if it was not asked yet.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Build the TensorRT plans that are missing in REPO, or do not fit this machine. `serve` does it too."""
    from tritext.serve.ensemble import choose
    from tritext.serve.prepare import prepare as run_prepare
    from tritext.serve.prepare import verify

    models = choose(repository.resolve(), model)
    console = Console(stderr=True)
    with TerminalProgress(console) as progress:
        done = run_prepare(models, progress, thorough=True)
        if check:
            verify([each for each in done if not each.checked], progress)
    if as_json:
        typer.echo(json.dumps([_as_json(each) for each in done], indent=2))
        return
    for each in done:
        typer.echo(_as_text(each))
    if not done:
        typer.echo("No model of this repository needs a plan.")


def _as_text(prepared: "Prepared") -> str:
    if prepared.reason is None:
        return f"{prepared.model.name}: its plan fits {prepared.machine}"
    how = "taken from the cache" if prepared.from_cache else f"built in {prepared.seconds:,.0f} s"
    return f"{prepared.model.name}: {how} for {prepared.machine}, because {prepared.reason}"


def _as_json(prepared: "Prepared") -> dict[str, object]:
    return {
        "model": prepared.model.name, "plan": str(prepared.folder / PLAN), "reason": prepared.reason,
        "from_cache": prepared.from_cache, "seconds": round(prepared.seconds, 1), "tensorrt": prepared.machine.tensorrt,
        "gpu": prepared.machine.gpu, "compute_capability": prepared.machine.compute,
    }  # fmt: skip
