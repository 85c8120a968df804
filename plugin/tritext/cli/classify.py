"""`tritext classify`."""

import os
import stat
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from tritext.cli.connection import ApiKeyFile, TlsCa, TlsCert, TlsKey
from tritext.cli.keyvalue import request_parameter
from tritext.cli.meter import Meter
from tritext.cli.output import CsvWriter, JsonlWriter, OutputFormat, Writer
from tritext.cli.source import Arguments, Document, Source
from tritext.cli.stream import Stream, Target, ending_quietly
from tritext.cli.tables import TableWriter
from tritext.cli.texts import Columns, InputFormat
from tritext.client import Client, ModelInfo
from tritext.client.security import Security
from tritext.tasks import question_answering, task_named, text_classification

STDIN: Final = "-"

# Where top_k is the most that a text may get. A text with masks gets as many for each of them.
_BOUNDED: Final = (text_classification.TASK.name, question_answering.TASK.name)


def classify(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="Texts, or - for stdin.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, readable=True, help="Lines of text, .jsonl or .csv."),
    ] = None,
    pair: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="The second text: one for all, or one for each TEXT.")
    ] = None,
    input_format: Annotated[
        InputFormat | None, typer.Option(help="The format, if the file's name does not say.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="CSV column or JSON field of the text; text where not given.")
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="That of the second text; text_pair where there is one.")
    ] = None,
    url: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server's gRPC address.")] = "localhost:8001",
    api_key_file: ApiKeyFile = None,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    top_k: Annotated[str | None, typer.Option(help="Labels for each text, best first: a number, or all.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Leave out what scores less.")] = None,
    function_to_apply: Annotated[str | None, typer.Option(help="softmax, sigmoid or none.")] = None,
    truncation: Annotated[
        str | None, typer.Option(help="Of texts that are too long: error, right, left or window.")
    ] = None,
    stride: Annotated[int | None, typer.Option(min=0, help="With window: tokens that neighbours share.")] = None,
    aggregation_strategy: Annotated[str | None, typer.Option(help="none, simple, first, average or max.")] = None,
    ignore_labels: Annotated[str | None, typer.Option(help="Entities to leave out, separated by commas.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other parameter of the model's task; repeatable."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Most texts in one request; 32 where not given.")
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0.001, help="For each request.")] = 60.0,
    output_format: Annotated[OutputFormat, typer.Option(help="How to write the results.")] = OutputFormat.table,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --output-format jsonl.")] = False,
    out: Annotated[Path | None, typer.Option(dir_okay=False, help="Write to this file.")] = None,
) -> None:
    """Send texts to the model NAME on a running server, and write what it answers, in order.

    In a text file, an empty line is a text too: line N has result N.

    CSV and JSON Lines keep their own columns in the output.
    """
    source = _source(texts or [], file, pair or [], input_format, Columns(column, pair_column))
    if out is not None and out.exists() and _reads(source, out):
        raise typer.BadParameter("is the file that is read.", param_hint="--out")
    options = {
        "top_k": top_k,
        "threshold": threshold,
        "function_to_apply": function_to_apply,
        "truncation": truncation,
        "stride": stride,
        "aggregation_strategy": aggregation_strategy,
        "ignore_labels": ignore_labels,
    }
    others = dict(request_parameter(each) for each in settings or [])
    sent = {option: value for option, value in options.items() if value is not None} | others
    written = OutputFormat.jsonl if as_json else output_format
    security = Security.load(tls_ca, tls_cert, tls_key, api_key_file)
    client = Client(url, timeout=timeout, credentials=security.credentials, api_key=security.api_key)
    with ending_quietly(), client:
        info = client.model(name)
        with Target(out) as target, Meter(_bar_console(source, target), source.size) as meter:
            stream = Stream(client, name, {**sent, "batch_size": batch_size}, source)
            stream.run(_writer(written, target, info, others.get("top_k", top_k)), target, meter)


def _source(
    texts: list[str], file: Path | None, pairs: list[str], written: InputFormat | None, columns: Columns
) -> Source:
    """What to read; a usage error where that is not said, or said twice."""
    if (file is None) == (not texts) or (STDIN in texts and len(texts) > 1):
        raise typer.BadParameter("Give texts, or - for stdin, or --file.", param_hint="TEXT")
    if texts and STDIN not in texts:
        if len(pairs) not in {0, 1, len(texts)}:
            raise typer.BadParameter(
                f"{len(pairs)} for {len(texts)} texts: give 1 or {len(texts)}.", param_hint="--pair"
            )
        return Arguments(texts, pairs)
    if len(pairs) > 1:
        raise typer.BadParameter("One for all; or put them in a CSV or JSON Lines file.", param_hint="--pair")
    return Document(file, written or InputFormat.of(file or Path()), columns, pairs[0] if pairs else None)


def _reads(source: Source, out: Path) -> bool:
    """Whether `out` is the file that `source` reads, by whatever name or descriptor."""
    if not isinstance(source, Document):
        return False
    if source.path is not None:
        return out.samefile(source.path)
    stdin = os.fstat(0)  # a terminal, or /dev/null, may be both
    return stat.S_ISREG(stdin.st_mode) and os.path.samestat(stdin, out.stat())


def _writer(written: OutputFormat, target: Target, info: ModelInfo, top_k: str | None) -> Writer:
    if written is OutputFormat.jsonl:
        return JsonlWriter(target.emit)
    if written is OutputFormat.csv:
        entry = task_named(info.task).entry
        return CsvWriter(target.emit, _most(top_k, info), entry, is_bounded=info.task in _BOUNDED)
    return TableWriter(target.emit, target.console(), info)


def _most(top_k: str | None, info: ModelInfo) -> int | None:
    """How many labels a text may get, where that is known."""
    if top_k is None or info.task not in _BOUNDED:
        return None
    number = int(top_k) if top_k.isdecimal() else None
    if info.task == question_answering.TASK.name:
        return number
    return min(number or len(info.labels), len(info.labels))


def _bar_console(source: Source, target: Target) -> Console | None:
    """Where to draw progress: on stderr where that is a terminal, above nothing else that is being drawn."""
    if not source.is_long or not sys.stderr.isatty():
        return None
    return target.share() if target.is_terminal else Console(stderr=True)
