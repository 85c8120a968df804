"""`tritext build`."""

import shlex
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console

from tritext.cli.candidates import candidate_table
from tritext.cli.keyvalue import key_value
from tritext.cli.overrides import (
    LabelsOption,
    MaxLengthOption,
    PoolingOption,
    ProblemTypeOption,
    RevisionOption,
    TaskOption,
    TokenizerOption,
    names_in,
)
from tritext.cli.progress import TerminalProgress
from tritext.cli.source import Document
from tritext.cli.texts import Columns, InputFormat, Row
from tritext.errors import BuildError

if TYPE_CHECKING:
    from tritext.engines.plan import PlanOptions
    from tritext.text.inputs import TextInput


class Batching(StrEnum):
    """How requests of many lengths reach a TensorRT plan."""

    PACKED = "packed"
    BUCKETS = "buckets"


_MOST_TEXTS: Final = 2000  # that are read; a build looks at some four hundred of them


def build(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A directory that `save_pretrained` wrote, or a hub id.")
    ],
    name: Annotated[str, typer.Option(help="The model's name, which clients call.")],
    out: Annotated[Path, typer.Option(help="The model repository; made where it is missing.")],
    revision: RevisionOption = None,
    engine: Annotated[
        str,
        typer.Option(help="openvino, onnxruntime, torch, or the best of them here: auto. tensorrt, for NVIDIA GPUs."),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, bf16, fp16, int8, fp8, or auto: the fastest that passes the gate.")
    ] = "auto",
    texts: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="Texts like yours, to choose the precision by: lines, .jsonl or .csv.",
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="With --texts: CSV column or JSON field of the text; text where not given.")
    ] = None,
    pair_column: Annotated[
        str | None, typer.Option(help="That of the second text; text_pair where there is one.")
    ] = None,
    min_agreement: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="The gate: share of labels that must be the checkpoint's.")
    ] = 0.995,
    max_drift: Annotated[
        float, typer.Option(min=0.0, help="The gate: how far 99 of 100 scores may be from the checkpoint's.")
    ] = 0.1,
    task: TaskOption = None,
    labels: LabelsOption = None,
    problem_type: ProblemTypeOption = None,
    max_length: MaxLengthOption = None,
    tokenizer: TokenizerOption = None,
    pooling: PoolingOption = None,
    max_batch_size: Annotated[int, typer.Option(help="Most texts a request.")] = 256,
    instances: Annotated[
        int, typer.Option(help="Processes that encode. With 2, small requests pass large ones; all take longer.")
    ] = 1,
    batching: Annotated[
        Batching,
        typer.Option(help="With tensorrt: several texts packed into a row, or each padded up to one of a few lengths."),
    ] = Batching.PACKED,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="With tensorrt: optimization_level=0 to 5, version_compatible=true, hardware_compatible=true.",
        ),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Default of a request parameter, such as truncation=error; repeatable."),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            readable=True,
            help="JSON {label: threshold}: a text then has the labels that reach their thresholds, and no others.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Build even where nothing changed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Build CHECKPOINT into a Triton model repository, and check its answers against the checkpoint's own."""
    try:
        from tritext.build.source import locate

        source = locate(checkpoint, revision)  # before what takes seconds to import
        from tritext.build import BuildOptions
        from tritext.build import build as run_build
        from tritext.build.checkpoint import Overrides
        from tritext.build.gate import Bounds
        from tritext.build.thresholds import read as read_thresholds
    except ImportError as error:
        raise BuildError(
            f"Building needs {error.name}, which is not installed. Install it with: pip install 'tritext[build]'"
        ) from error
    options = BuildOptions(
        name=name,
        repository=out,
        engine=engine,
        precision=precision,
        texts=_texts(texts, Columns(column, pair_column)),
        bounds=Bounds(min_agreement, max_drift),
        instances=instances,
        batching=batching.value,
        plan=_plan(plan or []),
        max_batch_size=max_batch_size,
        overrides=Overrides(task, names_in(labels), problem_type, max_length, tokenizer, pooling),
        defaults=dict(key_value(each, "--default") for each in default or []),
        thresholds=read_thresholds(thresholds) if thresholds else None,
        force=force,
    )
    console = Console(stderr=True)
    with TerminalProgress(console) as progress:
        result = run_build(source, options, progress)
    if result.changed and result.manifest.candidates:
        console.print(candidate_table(result.manifest.candidates))
    typer.echo(result.manifest.to_json() if as_json else _summary(result.model.name, out, changed=result.changed))


def _texts(path: Path | None, columns: Columns) -> "tuple[TextInput, ...]":
    if path is None:
        if columns != Columns():
            raise typer.BadParameter("Say with --texts which file it is of.", param_hint="--column")
        return ()
    rows = Document(path, InputFormat.of(path), columns).rows(lambda _: None)
    read = (row for row in rows if isinstance(row, Row) and row.text.strip())
    texts = tuple(row.text if row.pair is None else (row.text, row.pair) for row in islice(read, _MOST_TEXTS))
    if not texts:
        raise BuildError(f"--texts {path} holds no text. Leave it out to have the build choose by texts of its own.")
    return texts


def _plan(pairs: list[str]) -> "PlanOptions":
    from tritext.engines.plan import PlanOptions

    try:
        return PlanOptions.parse(dict(key_value(each, "--plan") for each in pairs))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--plan") from error


def _summary(name: str, out: Path, *, changed: bool) -> str:
    verb = "Built" if changed else "Already built, nothing changed:"
    return f"{verb} {name}. Serve it with: tritext serve {shlex.quote(str(out))}"
