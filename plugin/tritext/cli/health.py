"""`tritext health`."""

import json
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tritext.access import key_from
from tritext.cli.connection import TLS_CERT, ApiKeyFile
from tritext.errors import ServeError

if TYPE_CHECKING:
    from tritext.serve.remote import RemoteBase


def health(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="The model repository that is served.")],
    url: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT",
            envvar="TRITEXT_HEALTH_URL",
            help="The server's gRPC address, or http://HOST:PORT where gRPC asks callers for certificates.",
        ),
    ] = "127.0.0.1:8001",
    api_key_file: ApiKeyFile = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar=TLS_CERT, help="The certificate that the server was given, under whatever name."
        ),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="NAME", help="This model only; repeatable.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="For each model.")] = 4.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the milliseconds of each model as JSON.")] = False,
) -> None:
    """Ask each model of a running server one text, as a container's health check does: 0 only where all answer.

    Triton says that it is ready also where a step of a model is dead.
    """
    from tritext.serve.ensemble import sample_arrays
    from tritext.serve.selection import Selection

    selection = Selection(repository, model, partial(typer.echo, err=True))
    remote = _remote(url, timeout, tls_cert, key_from(api_key_file))
    times, faults = {}, selection.missing()
    for each in selection.models:
        begun = time.monotonic()
        try:
            remote.infer(each.name, sample_arrays(each))
        except ServeError as error:
            faults.append(str(error))
        else:
            times[each.name] = round((time.monotonic() - begun) * 1e3, 1)
    remote.close()
    if as_json:
        typer.echo(json.dumps(times))
    else:
        for name, milliseconds in times.items():
            typer.echo(f"{name}: {milliseconds:g} ms")
    if faults:
        raise ServeError(" ".join(fault.rstrip(".") + "." for fault in faults))


def _remote(url: str, timeout: float, certificate: Path | None, api_key: str | None) -> "RemoteBase":
    from tritext.serve.remote import Remote
    from tritext.serve.remote_http import HttpRemote
    from tritext.serve.tls import Trust

    if url.startswith("http://"):
        return HttpRemote(url, key="", timeout=timeout, api_key=api_key)
    trust = Trust.of_server(certificate, url, timeout) if certificate else None
    return Remote(url, key="", timeout=timeout, api_key=api_key, trust=trust)
