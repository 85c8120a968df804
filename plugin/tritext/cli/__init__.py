"""The command line: each command reads its options and makes one call into the package."""

import os
import sys
from typing import Annotated

import typer

# Read by gRPC when it is first imported. Errors come as exceptions; its own log would stand between ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import tritext
from tritext.cli.bench import bench
from tritext.cli.build import build
from tritext.cli.classify import classify
from tritext.cli.health import health
from tritext.cli.inspect import inspect
from tritext.cli.prepare import prepare
from tritext.cli.release import deploy, remove, rollback
from tritext.cli.serve import serve
from tritext.errors import InvalidInput, TritextError

app = typer.Typer(
    name="tritext",
    help="Serve a Hugging Face BERT-family checkpoint on NVIDIA Triton: raw text in, labels out, in one call.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (build, inspect, prepare, serve, health, deploy, rollback, remove, classify, bench):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tritext {tritext.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command line; an error of ours is one sentence on stderr and exit code 1 (2: the input's fault)."""
    try:
        app()
    except TritextError as error:
        typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(str(error), err=True)
        sys.exit(2 if isinstance(error, InvalidInput) else 1)
    except Exception as error:
        if os.environ.get("TRITEXT_DEBUG"):
            raise
        typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(f"{type(error).__name__}: {error}. This is a bug; TRITEXT_DEBUG=1 shows where.", err=True)
        sys.exit(1)
