"""`tritext deploy`, `rollback` and `remove`."""

import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import typer

from tritext.errors import RepositoryError, ServeError
from tritext.repository import BuiltModel, committed

Repository = Annotated[Path, typer.Argument(metavar="REPO", help="The model repository that is served.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model.")]
Wait = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Wait until the server whose Ready address this is has taken it, or refused it."),
]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long --wait waits.")]


def deploy(
    model: Annotated[Path, typer.Argument(metavar="FROM/NAME", help="A model's folder in another repository.")],
    repository: Repository,
    wait: Wait = None,
    timeout: Timeout = 300.0,
) -> None:
    """Bring a built model into the repository that is served, in the place of the build that is there."""
    from tritext.build import release

    found = committed(model.parent, model.name)
    if found is None:
        raise RepositoryError(f"{model} is not a model that tritext built. Name the model's folder: REPO/NAME.")
    _done(release.deploy(found, repository), "is committed", wait, timeout)


def rollback(
    repository: Repository,
    name: Name,
    build: Annotated[
        str | None, typer.Option("--to", metavar="BUILD", help="The build to go back to; the one before if not given.")
    ] = None,
    wait: Wait = None,
    timeout: Timeout = 300.0,
) -> None:
    """Go back to an earlier build of a model."""
    from tritext.build import release

    _done(release.rollback(repository, name, build), "is committed again", wait, timeout)


def remove(repository: Repository, name: Name) -> None:
    """Take a model out of the repository; a server that follows it lets go of it."""
    from tritext.build import release

    release.remove(repository, name)
    typer.echo(f"{name} is removed from {repository}.")


def _done(model: BuiltModel, what: str, wait: str | None, timeout: float) -> None:
    typer.echo(f"{model.name}: build {model.build} {what} in {model.repository}.")
    if wait is not None:
        _await(model, wait.removesuffix("/"), timeout)
        typer.echo(f"{model.name}: build {model.build} answers.")


def _await(model: BuiltModel, url: str, timeout: float) -> None:
    """Until the server at `url` says that it serves the build of `model`; ServeError where it refuses it."""
    deadline = time.monotonic() + timeout
    said: dict[str, Any] = {}
    while time.monotonic() < deadline:
        said = _ask(f"{url}/{model.name}")
        if said.get("build") == model.build and said.get("ready"):
            return
        if said.get("refused_build") == model.build:
            raise ServeError(f"The server refuses build {model.build} of {model.name}: {said.get('refused')}.")
        time.sleep(0.2)
    raise ServeError(f"Build {model.build} of {model.name} does not answer at {url} within {timeout:g} s.")


def _ask(url: str) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise ServeError(f"{url} is no address. Give what `tritext serve` prints as Ready: http://HOST:PORT/ready.")
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - checked above
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:  # 503 says why it is not ready, 404 that it knows no such model
        try:
            return dict(json.load(error))
        except ValueError:
            return {}
    except (OSError, ValueError):
        return {}
