"""`tritext serve`."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from tritext.admission import DEFAULT_GOAL
from tritext.cli.progress import TerminalProgress
from tritext.errors import ServeError

if TYPE_CHECKING:
    from tritext.serve import Server

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Level(StrEnum):
    """How much of Triton's log is shown."""

    error = "error"
    warning = "warning"
    info = "info"
    debug = "debug"


class _Stop(BaseException):
    """Somebody asked us to stop."""


def serve(
    repository: Annotated[Path, typer.Argument(metavar="REPO", help="The model repository that `build` made.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(help="gRPC; 0 picks a free port.")] = 8001,
    http_port: Annotated[int, typer.Option(help="HTTP; 0 picks a free port.")] = 8000,
    metrics_port: Annotated[int, typer.Option(help="Prometheus metrics; 0 picks a free port.")] = 8002,
    model: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Serve this model only; repeatable.")] = None,
    log_level: Annotated[Level, typer.Option(help="How much of Triton's log is shown.")] = Level.warning,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each encoder; as many as there are cores if not given.")
    ] = None,
    latency_goal: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.0, help="Refuse what would wait longer, and say when to try again; 0: nothing."
        ),
    ] = DEFAULT_GOAL,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long the models may take to load.")
    ] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the endpoints as one line of JSON.")] = False,
) -> None:
    """Serve the models of REPO until stopped (Ctrl-C), and let the requests in flight finish then."""
    from tritext.serve import Server  # half a second that no other command should pay
    from tritext.serve.prepare import prepare

    console = Console(stderr=True)
    server = Server(
        repository,
        models=model,
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        log_level=log_level.value,
        threads=threads,
        latency_goal=latency_goal,
        log=lambda line: console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True),
    )
    with _until_signalled():
        with TerminalProgress(console) as progress:
            prepare(server.models, progress)
        _run(console, server, timeout, as_json=as_json)
    if server.stop():
        raise ServeError("Stopped, but requests in flight did not finish in time and were cut off.")
    console.print("Stopped.")


def _run(console: Console, server: "Server", timeout: float, *, as_json: bool) -> None:
    """Start, say when it is ready, and wait for its end."""
    begun = time.monotonic()
    with server:
        try:
            server.wait_ready(timeout)
            _tell(console, server, time.monotonic() - begun)
            with suppress(BrokenPipeError):  # whoever read the endpoints may be gone
                print(_as_json(server) if as_json else _as_text(server), flush=True)
            server.wait()
        except _Stop:
            console.print("Stopping; requests in flight finish first. Once more cuts them off.", highlight=False)
            raise


@contextmanager
def _until_signalled() -> Iterator[None]:
    """A signal ends the block; one more ends it at once."""

    def stop(*_: object) -> None:
        raise _Stop

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except _Stop:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(console: Console, server: "Server", seconds: float) -> None:
    """For whoever watches."""
    console.print(f"[green]Ready[/green] in {seconds:.1f} s. Ctrl-C stops.", highlight=False)
    if not server.is_local:
        console.print("[yellow]Whoever reaches this machine can ask these models.[/yellow] There is no log-in.")
    for checked in server.checked:
        console.print(
            f"{checked.model}: {checked.texts} of {checked.of} reference texts asked, logits within "
            f"{checked.difference:.1e} of the checkpoint's (tolerance {checked.tolerance:g})",
            style="dim",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _as_text(server: "Server") -> str:
    endpoints = f"gRPC     {server.grpc_url}\nHTTP     {server.http_url}\nMetrics  {server.metrics_url}\n"
    return "\n".join([endpoints, *map(server.curl, server.models)])


def _as_json(server: "Server") -> str:
    endpoints = {"grpc": server.grpc_url, "http": server.http_url, "metrics": server.metrics_url}
    return json.dumps({**endpoints, "models": [model.name for model in server.models], "pid": server.process.pid})
