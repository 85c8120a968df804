"""`tritext bench`."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer
from rich.console import Console

from tritext.cli.connection import ApiKeyFile, TlsCa, TlsCert, TlsKey
from tritext.cli.keyvalue import request_parameter
from tritext.cli.progress import TerminalProgress
from tritext.cli.source import Document
from tritext.cli.stream import Target, ending_quietly
from tritext.cli.texts import Columns, InputFormat, Row
from tritext.client.security import Security
from tritext.errors import ClientError, InvalidInput

if TYPE_CHECKING:
    from tritext.bench.measure import Load
    from tritext.bench.run import Results
    from tritext.bench.traffic import Item

_URL: Final = "localhost:8001"
_METRICS: Final = "http://{host}:8002/metrics"
_CONCURRENCY: Final = "1,8,64"
_MOST: Final = {"--concurrency": 10_000, "--rate": 100_000}

N = TypeVar("N", int, float)


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model.")],
    url: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The server's gRPC address; localhost:8001 if not given.")
    ] = None,
    repository: Annotated[
        Path | None, typer.Option(metavar="REPO", help="Start a server for this repository, and stop it afterwards.")
    ] = None,
    api_key_file: ApiKeyFile = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    metrics_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Triton's metrics; port 8002 of the same host if not given.")
    ] = None,
    concurrency: Annotated[
        list[str] | None,
        typer.Option(metavar="N,…", help="Closed loop: so many requests at a time; 1,8,64 if no rate is given."),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(metavar="R,…", help="Open loop: so many requests a second, at random times (Poisson)."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts in a request.")] = 1,
    lengths: Annotated[
        str,
        typer.Option(
            metavar="MEDIAN,P95,MAX",
            help="Tokens of a text, special tokens included: log-normal; or one number for all alike.",
        ),
    ] = "24,120,256",
    texts: Annotated[int, typer.Option(min=1, help="How many different texts; of a file, the first so many.")] = 1024,
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="Send these: lines of text, .jsonl or .csv."),
    ] = None,
    input_format: Annotated[
        InputFormat | None, typer.Option(help="The format, if the file's name does not say.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="CSV column or JSON field of the text.")] = None,
    pair_column: Annotated[str | None, typer.Option(help="That of the second text.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A request parameter, such as top_k=2; repeatable."),
    ] = None,
    duration: Annotated[float, typer.Option(metavar="SECONDS", min=0.1, help="How long each load is measured.")] = 10.0,
    warmup: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.0, help="Load before the measurement starts.")
    ] = 2.0,
    requests: Annotated[int | None, typer.Option(min=1, help="End a load after so many, where that is sooner.")] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="For each request.")] = 60.0,
    cap: Annotated[
        int, typer.Option(min=1, help="Open loop: most requests outstanding; those beyond count as failed, unsent.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the texts and of the arrival times.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="Write the results to this file as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw latency against throughput: .svg, .png or .pdf.")
    ] = None,
) -> None:
    """Put load on the model NAME and show its throughput and latency, and where its time goes.

    Latency counts from the time a request was due, and failed requests never end: neither a stall nor an error
    makes a percentile look better. Nothing is sent twice; what the server refuses for now is counted apart.
    """
    from tritext.bench import plot as plotting  # NumPy, gRPC: half a second that no other command should pay
    from tritext.bench.lengths import Lengths
    from tritext.bench.measure import Conditions
    from tritext.bench.run import Plan, run

    plan = Plan(
        name=name,
        loads=_loads(concurrency or [], rate or []),
        texts=_texts(file, input_format, Columns(column, pair_column), texts) if file else None,
        count=texts,
        lengths=Lengths.parse(lengths),
        parameters=dict(_pair(each) for each in settings or []),
        batch_size=batch_size,
        timeout=timeout,
        conditions=Conditions(duration, warmup, requests, seed, cap, drain=timeout + 1),  # so that deadlines decide,
    )
    security = Security.load(tls_ca, tls_cert, tls_key, api_key_file)
    if url is not None and repository is not None:
        raise typer.BadParameter("Give --url or --repository, not both.", param_hint="--repository")
    if plot is not None:
        plotting.check(plot)
    for option, path in (("--out", out), ("--plot", plot)):
        _check_writable(option, path)
    console = Console(stderr=True)
    with ending_quietly():
        server = _server(console, name, url, repository, metrics_url)
        with server as (address, metrics), TerminalProgress(console) as progress:
            results = run(plan, address, metrics, progress, security)
        document = results.document(shlex.join(["tritext", *sys.argv[1:]]))
        try:
            _print(results, document, as_json=as_json)
        finally:  # also where nobody reads to the end
            _write(document, out)
            if plot is not None:
                plotting.plot(results.measured, f"{name} at {address}", plot)
    if any(
        (each.client.failed or each.client.refused) and not each.client.requests_per_second for each in results.measured
    ):
        raise ClientError("Under at least one load no request was answered in time; the figures say nothing there.")


@contextmanager
def _server(
    console: Console, name: str, url: str | None, repository: Path | None, metrics_url: str | None
) -> Iterator[tuple[str, str]]:
    """The gRPC address and the URL of the metrics, of a server that runs or of one of our own."""
    if repository is None:
        address = url or _URL
        yield address, metrics_url or _METRICS.format(host=address.rpartition(":")[0])
        return
    from tritext.serve import Server
    from tritext.serve.ensemble import choose
    from tritext.serve.prepare import prepare

    log = partial(console.print, style="dim", markup=False, highlight=False, soft_wrap=True)
    models = choose(repository.resolve(), [name])
    with TerminalProgress(console) as progress:
        prepare(models, progress)
    with Server(repository, models=models, grpc_port=0, http_port=0, metrics_port=0, log=log) as server:
        server.wait_ready()
        yield server.grpc_url, metrics_url or server.metrics_url


def _check_writable(option: str, path: Path | None) -> None:
    """Before a long run: InvalidInput where nothing can be written to `path`."""
    if path is None:
        return
    if os.access(path, os.F_OK):
        if not os.access(path, os.W_OK):
            raise InvalidInput(f"{option} is {path}, which cannot be written. Choose another file.")
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        raise InvalidInput(f"{option} is {path}, and {path.parent} is no folder that can be written to.")


def _print(results: "Results", document: dict[str, Any], *, as_json: bool) -> None:
    from tritext.bench.report import tables

    with Target(None) as target:
        if as_json:
            target.emit(_json(document))
        else:
            console = target.console()
            with console.capture() as captured:
                console.print(tables(results.measured))
            target.emit(captured.get())


def _write(document: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        with Target(out) as target:
            target.emit(_json(document))


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _texts(path: Path, written: InputFormat | None, columns: Columns, most: int) -> "list[Item]":
    rows = Document(path, written or InputFormat.of(path), columns).rows(lambda _: None)
    items = [
        row.text if row.pair is None else (row.text, row.pair) for row in islice(rows, most) if isinstance(row, Row)
    ]
    if not items:
        raise InvalidInput(f"{path} holds no texts.")
    return items


def _loads(concurrency: list[str], rate: list[str]) -> "list[Load]":
    """Closed loops, then open ones, as they were written."""
    from tritext.bench.measure import Closed, Open

    if not concurrency and not rate:
        concurrency = [_CONCURRENCY]
    closed = [_number(part, int, "--concurrency") for each in concurrency for part in each.split(",")]
    opened = [_number(part, float, "--rate") for each in rate for part in each.split(",")]
    return [*map(Closed, closed), *map(Open, opened)]


def _number(written: str, kind: Callable[[str], N], option: str) -> N:
    try:
        number = kind(written)
    except ValueError:
        number = kind("0")
    if not 0 < number <= _MOST[option]:
        whole = "a whole number" if kind is int else "a number"
        raise typer.BadParameter(f"{written!r} is not {whole} above 0, {_MOST[option]:,} at most.", param_hint=option)
    return number


def _pair(written: str) -> tuple[str, str]:
    return request_parameter(written)
