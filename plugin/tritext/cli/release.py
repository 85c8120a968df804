"""`tritext deploy`, `rollback` and `remove`."""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from tritext.errors import InvalidInput, RepositoryError, ServeError
from tritext.repository import CONFIG, BuiltModel, committed

_PLAIN: Final = re.compile(r"[!-~]+")  # what may stand in an address as it is


def _address(url: str | None) -> str | None:
    """`url`, before anything is committed; InvalidInput where it is no address that can be asked."""
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        # Reading the port is what checks it.
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or not _PLAIN.fullmatch(url):
        raise InvalidInput(
            f"--wait is {url!r}, which is no address. Give what `tritext serve` prints as Ready: "
            "http://HOST:PORT/ready."
        )
    return url


Repository = Annotated[Path, typer.Argument(metavar="REPO", help="The model repository that is served.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The model.")]
Wait = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        callback=_address,
        help="Wait until the server whose Ready address this is has taken it, or refused it.",
    ),
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
    """Until the server at `url` says that it serves the build of `model`; ServeError where it refuses this commit.

    What it said of an earlier commit of the same build stays on its page until it has tried this one.
    """
    deadline = time.monotonic() + timeout
    committed_at = (model.repository / model.name / CONFIG).stat().st_mtime_ns
    said: dict[str, Any] = {}
    while time.monotonic() < deadline:
        said = _ask(f"{url}/{model.name}")
        if said.get("build") == model.build and said.get("ready"):
            return
        if _is_refused(model, said) and said.get("refused_commit") == committed_at:
            raise ServeError(f"The server refuses build {model.build} of {model.name}: {said.get('refused')}.")
        time.sleep(0.2)
    before = f" It refused an earlier commit of it: {said.get('refused')}." if _is_refused(model, said) else ""
    raise ServeError(f"Build {model.build} of {model.name} does not answer at {url} within {timeout:g} s.{before}")


def _is_refused(model: BuiltModel, said: dict[str, Any]) -> bool:
    return bool(said.get("refused_build") == model.build)


def _ask(url: str) -> dict[str, Any]:
    """What the page says; nothing where nobody answers, or somebody else."""
    try:
        with _opened(url) as answer:
            said = json.load(answer)
    except (OSError, ValueError, http.client.HTTPException):
        return {}
    return said if isinstance(said, dict) else {}


def _opened(url: str) -> Any:
    try:
        return urllib.request.urlopen(url, timeout=5)  # noqa: S310 - checked above
    except urllib.error.HTTPError as error:  # 503 says why it is not ready, 404 that it knows no such model
        return error
