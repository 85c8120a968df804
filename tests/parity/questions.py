"""Questions and contexts that the golden answers in `golden/question_answering.json` are for."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hard_texts import SINGLE

import checkpoints

GOLDEN = Path(__file__).parent / "golden" / "question_answering.json"
# Each of these has another tokenizer, or another way to put a pair together.
MODELS = ("bert", "roberta", "xlm-roberta", "deberta-v2")

_EMPTY = ("\0", "\n\t\r\u2028\u2029\x0b", "\u0301\u0302 marks without a letter")
_CONTEXTS = tuple(text for text in SINGLE if text.strip() and text not in _EMPTY and len(text) < 20_000)
_OPTIONS: Sequence[dict[str, Any]] = (
    {},
    {"top_k": 5},
    {"handle_impossible_answer": True},
    {"max_answer_length": 3, "top_k": 2},
    {"handle_impossible_answer": True, "top_k": 4, "max_answer_length": 40},
    {"doc_stride": 16, "top_k": 3},
    {"max_seq_len": 64, "doc_stride": 10, "top_k": 3},
    {"doc_stride": 0},
)


class Case(NamedTuple):
    """One question, what to look for the answer in, and the request's parameters."""

    question: str
    context: str
    options: dict[str, Any]


def cases(model: str) -> list[Case]:
    """All scripts and awkward texts as contexts, alone and several end to end, which make up to thirty windows.

    Each model gets them with other options.
    """
    asking = [text for text in _CONTEXTS[:40] if "[CLS]" not in text]  # which the pipeline would take for an answer
    questions = itertools.cycle([" ".join(text[:60].split()[:4]) + "?" for text in asking][::-1])
    options = itertools.islice(itertools.cycle(_OPTIONS), MODELS.index(model), None)
    joined = [" ".join(_CONTEXTS[start : start + 3]) for start in range(0, len(_CONTEXTS), 3)]
    contexts = [text for text in (*_CONTEXTS, *joined) if len(text) < 8000]
    return [Case(question, context, next(options)) for question, context in zip(questions, contexts, strict=False)]


def make_checkpoint(folder: Path, model: str) -> Path:
    """The one of `model` that the answers are of."""
    return checkpoints.make(folder, checkpoints.ARCHITECTURES[model], checkpoints.HEADS["spans"], seed=7)


def digest(*parts: bytes | str) -> str:
    """Of files and cases, to tell whether answers are to these."""
    return hashlib.sha256(b"\0".join(p.encode() if isinstance(p, str) else p for p in parts)).hexdigest()[:16]


def digest_of(checkpoint: Path, asked: Sequence[Case]) -> str:
    """Of what golden answers depend on."""
    files = [(checkpoint / name).read_bytes() for name in ("model.safetensors", "tokenizer.json")]
    return digest(*files, json.dumps(asked))
