"""`tritext health`."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from tritext.errors import ServeError


def health(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="The model repository that is served.")],
    url: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server's gRPC address.")] = "127.0.0.1:8001",
    model: Annotated[list[str] | None, typer.Option(metavar="NAME", help="This model only; repeatable.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="For each model.")] = 4.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the milliseconds of each model as JSON.")] = False,
) -> None:
    """Ask each model of a running server one text, as a container's health check does: 0 only where all answer.

    Triton says that it is ready also where a step of a model is dead.
    """
    from tritext.serve.ensemble import choose, sample_arrays
    from tritext.serve.remote import Remote

    remote = Remote(url, key="", timeout=timeout)
    times, faults = {}, []
    for each in choose(repository.resolve(), model):
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
