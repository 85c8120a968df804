"""Which architectures are served, for which tasks, by which engines, in which precisions: README's table.

parity/test_matrix.py builds and compares what is said here; `python tests/matrix.py` writes it into README.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

README: Final = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- architectures: written by tests/matrix.py -->", "<!-- architectures end -->"

# By name in tests/checkpoints.py; the checkpoints that are of it too.
ARCHITECTURES: Final[Mapping[str, str]] = {
    "bert": "TinyBERT, LaBSE, E5, BGE, MiniLM",
    "distilbert": "",
    "roberta": "",
    "xlm-roberta": "multilingual E5, BGE-M3",
    "electra": "",
    "albert": "",
    "mpnet": "",
    "deberta": "v1; one text a row",
    "deberta-v2": "v2 and v3",
    "camembert": "",
    "modernbert": "sliding windows",
    "mobilebert": "",
    "big_bird": "full attention",
    "nomic_bert": "in transformers' own form, which answers no questions",
}
# By the head whose logits they read; its name in tests/checkpoints.py.
TASKS: Final[Mapping[str, tuple[str, ...]]] = {
    "single": ("text-classification", "zero-shot-classification", "reranking"),
    "tokens": ("token-classification",),
    "none": ("feature-extraction",),
    "masked": ("fill-mask",),
    "spans": ("question-answering",),
}
ENGINES: Final[Mapping[str, tuple[str, ...]]] = {
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "int8"),
    "torch": ("fp32", "bf16"),
    "tensorrt": ("fp32", "fp16", "bf16", "int8", "fp8"),
}
# Heads that transformers has no class for.
ABSENT: Final = frozenset({("nomic_bert", "spans")})
# Of an architecture, what an engine does not do, and why.
REFUSED: Final[Mapping[tuple[str, str, str], str]] = {}


@dataclass(frozen=True)
class Cell:
    """One combination, by names of the tables above."""

    architecture: str
    head: str
    engine: str
    precision: str


def cells(architecture: str, head: str) -> Iterator[Cell]:
    """What is served of an architecture with a head."""
    for engine, precisions in ENGINES.items():
        for precision in precisions:
            if (architecture, engine, precision) not in REFUSED:
                yield Cell(architecture, head, engine, precision)


def block(refused: Mapping[str, str]) -> str:
    """The part of README between its markers; `refused` are architectures with the reason."""
    engines = [f"`{engine}`" for engine in ENGINES]
    lines = [f"| architecture | {' | '.join(engines)} |", "|---" * (1 + len(engines)) + "|"]
    notes: dict[str, int] = {}
    for name, also in ARCHITECTURES.items():
        columns = [_column(name, engine, notes) for engine in ENGINES]
        lines.append(f"| `{name}`{f' ({also})' if also else ''} | {' | '.join(columns)} |")
    lines += ["", *(f"({number}) {note}." for note, number in notes.items())]
    return "\n".join([BEGIN, *lines, *_refusals(refused), END])


def _column(name: str, engine: str, notes: dict[str, int]) -> str:
    shown = []
    for precision in ENGINES[engine]:
        reason = REFUSED.get((name, engine, precision))
        if reason is not None:
            shown.append(f"~~{precision}~~ ({notes.setdefault(reason, len(notes) + 1)})")
        else:
            shown.append(precision)
    return " ".join(shown)


def _refusals(refused: Mapping[str, str]) -> list[str]:
    named = [f"`{name}`: {reason}" for name, reason in refused.items()]
    sparse = "`big_bird` beyond the length up to which its block-sparse attention is full: it looks at random blocks"
    return [*([""] if named else []), f"Refused by name: {'; '.join([*named, sparse])}."]


def parts(readme: str) -> tuple[str, str, str]:
    """What is before the block, the block, and what is behind it."""
    before, _, rest = readme.partition(BEGIN)
    inside, _, after = rest.partition(END)
    return before, BEGIN + inside + END, after


def main() -> None:
    """Write the block into README."""
    from tritext.build.architectures import REFUSED as BY_NAME

    before, _, after = parts(README.read_text(encoding="utf-8"))
    README.write_text(before + block(BY_NAME) + after, encoding="utf-8")
    sys.stdout.write(f"Wrote {README.name}.\n")


if __name__ == "__main__":
    main()
