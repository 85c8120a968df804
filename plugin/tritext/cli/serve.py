"""`tritext serve`."""

import gc
import json
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from tritext.access import KEY_FILE
from tritext.admission import DEFAULT_GOAL
from tritext.cli.connection import TLS_CERT, TLS_CLIENT_CA, TLS_KEY
from tritext.cli.logs import Logs, Style
from tritext.cli.progress import TerminalProgress
from tritext.errors import ServeError

if TYPE_CHECKING:
    from tritext.serve import Server
    from tritext.serve.selection import Selection

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
    health_port: Annotated[int, typer.Option(help="/ready, /live and /metrics; 0 picks a free port.")] = 8003,
    http_host: Annotated[
        str | None, typer.Option(help="The address of HTTP, if another one; with TLS it is 127.0.0.1 if not given.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar=KEY_FILE, help="Answer only who sends one of the keys in this file, one a line."
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar=TLS_CERT, help="Encrypt gRPC with this certificate (PEM).")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", envvar=TLS_KEY, help="The key of --tls-cert (PEM).")
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", envvar=TLS_CLIENT_CA, help="Answer over gRPC only who has a certificate of this authority."
        ),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Serve this model only; repeatable.")] = None,
    log_level: Annotated[Level, typer.Option(help="How much of Triton's log is shown.")] = Level.warning,
    trace: Annotated[
        str | None, typer.Option(metavar="URL", help="Send OpenTelemetry traces there: http://HOST:4318/v1/traces.")
    ] = None,
    trace_rate: Annotated[int, typer.Option(metavar="N", min=1, help="Trace one of so many requests.")] = 1000,
    log_format: Annotated[Style, typer.Option(help="How the log is written: a JSON object a line, or text.")] = (
        Style.text
    ),
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log a line for each request: model, texts, tokens, seconds.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each encoder; as many as there are cores if not given.")
    ] = None,
    latency_goal: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="Refuse what would wait longer, and say when to try again; 0: never.",
        ),
    ] = DEFAULT_GOAL,
    grpc_fence: Annotated[
        bool,
        typer.Option(
            help="Keep from Triton what callers over gRPC could end it with, calls that they give up above all; "
            "without it a call takes some 0.5 ms less.",
        ),
    ] = True,
    nice: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=19,
            help="By how much Triton stands back for the fences at its ports, and for other programs; 5 if not given.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long the models may take to load.")
    ] = 120.0,
    step_memory: Annotated[
        float | None,
        typer.Option(metavar="GB", min=0.1, help="The most memory that a step may hold; half of all if not given."),
    ] = None,
    watch: Annotated[bool, typer.Option(help="Take new builds into service, and let go of removed models.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the endpoints as one line of JSON.")] = False,
) -> None:
    """Serve the models of REPO until stopped (Ctrl-C), and let the requests in flight finish then."""
    from tritext.serve import Server, find  # half a second that no other command should pay
    from tritext.serve.protection import Protection
    from tritext.serve.selection import Selection
    from tritext.serve.server import NICE
    from tritext.serve.trace import Trace

    logs = Logs.of(log_format)
    console = logs.console
    selection = Selection(repository, model, partial(_say, console))
    server = Server(
        repository,
        models=selection.models,
        host=host,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        log_level=log_level.value,
        threads=threads,
        latency_goal=latency_goal,
        grpc_fence=grpc_fence,
        nice=NICE if nice is None else nice,
        arguments=Trace.load(trace, trace_rate, find()).flags() if trace else (),
        protection=Protection.load(
            api_key_file=api_key_file,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            http_host=http_host,
        ),
        log=logs.sink,
        log_format=logs.format,
        access_log=access_log,
    )
    with _until_signalled():
        with TerminalProgress(console) as progress:
            selection.prepare(progress)
        server.models = list(selection.models)
        limit = None if step_memory is None else int(step_memory * 1e9)
        _run(console, server, selection, Limits(timeout, health_port, limit, model, watch), as_json=as_json)
    if server.stop():
        raise ServeError("Stopped, but requests in flight did not finish in time and were cut off.")
    console.print("Stopped.")


@dataclass(frozen=True, slots=True)
class Limits:
    """How the server is kept: seconds to get ready, the supervisor's port, bytes for each step."""

    timeout: float
    health_port: int
    step_memory: int | None
    models: Sequence[str] | None  # what may be served, where not all
    watch: bool


def _allow_files() -> None:
    """As many open files as this user may have: a caller takes two, and 1,024 are the usual limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _run(console: Console, server: "Server", selection: "Selection", limits: Limits, *, as_json: bool) -> None:
    """Start, say when it is ready, and keep it so until somebody stops it."""
    from tritext.serve.readiness import Readiness
    from tritext.serve.rollout import Rollouts
    from tritext.serve.supervisor import Supervisor

    begun = time.monotonic()
    _allow_files()
    with ExitStack() as stack:
        stack.callback(server.stop)
        try:
            selection.bring_up(server, limits.timeout)
            supervisor = Supervisor(server, partial(_say, console), step_memory=limits.step_memory)
            rollouts = Rollouts(server, supervisor, partial(_say, console), limits.models, selection.refusals)
            endpoint = Readiness(supervisor.status, server.endpoints.address, limits.health_port)
            with supervisor, endpoint as readiness, rollouts if limits.watch else nullcontext():
                selection.record(supervisor.status)
                gc.collect()
                gc.freeze()  # what stays for good: else its size decides how much garbage gathers before a collection
                _tell(console, server, time.monotonic() - begun)
                ready_url = f"{server.endpoints.url(readiness.port)}/ready"
                with suppress(BrokenPipeError):  # whoever read the endpoints may be gone
                    print(_as_json(server, ready_url) if as_json else _as_text(server, ready_url), flush=True)
                supervisor.wait()
        except _Stop:
            console.print("Stopping; requests in flight finish first. Once more cuts them off.", highlight=False)
            raise


def _say(console: Console, line: str) -> None:
    # Whoever read our messages may be gone, which rich takes for a reason to exit; the server goes on.
    with suppress(OSError, ValueError, SystemExit):
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)


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
    for warning in server.warnings():
        console.print(f"[yellow]{warning}[/yellow]", highlight=False, soft_wrap=True)
    for checked in server.checked:
        console.print(
            f"{checked.model}: {checked.texts} of {checked.of} reference texts asked, logits within "
            f"{checked.difference:.1e} of the checkpoint's (tolerance {checked.tolerance:g})",
            style="dim",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _as_text(server: "Server", ready: str) -> str:
    endpoints = (
        f"gRPC     {server.grpc_url}\nHTTP     {server.http_url}\nMetrics  {server.metrics_url}\nReady    {ready}\n"
    )
    return "\n".join([endpoints, *map(server.curl, server.models)])


def _as_json(server: "Server", ready: str) -> str:
    endpoints = {"grpc": server.grpc_url, "http": server.http_url, "metrics": server.metrics_url, "ready": ready}
    return json.dumps({**endpoints, "models": [model.name for model in server.models], "pid": server.process.pid})
