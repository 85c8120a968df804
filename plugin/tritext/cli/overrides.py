"""What a user may say instead of the checkpoint: options of `build` and of `inspect` alike."""

from pathlib import Path
from typing import Annotated

import typer

from tritext.parameters import NAMES

TaskOption = Annotated[
    str | None,
    typer.Option(
        help="Instead of the checkpoint's own: text-classification, token-classification, question-answering, "
        "zero-shot-classification, reranking, feature-extraction or fill-mask."
    ),
]
LabelsOption = Annotated[
    str | None, typer.Option(help="Label names by class index, separated by commas, or as a JSON list.")
]
ProblemTypeOption = Annotated[
    str | None, typer.Option(help="single_label_classification, multi_label_classification or regression.")
]
MaxLengthOption = Annotated[int | None, typer.Option(help="Most tokens a text, special tokens included.")]
TokenizerOption = Annotated[Path | None, typer.Option(help="A directory with another tokenizer.")]
PoolingOption = Annotated[
    str | None, typer.Option(help="mean, cls or max: how the vectors of a text's tokens become one.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")]


def names_in(text: str | None) -> tuple[str, ...] | None:
    """The label names that --labels gives, by class index."""
    if text is None:
        return None
    try:
        names: tuple[str, ...] = NAMES.parse(text)
    except (TypeError, ValueError, RecursionError):
        raise typer.BadParameter(f"{text!r} is not {NAMES.expects}", param_hint="--labels") from None
    return names
