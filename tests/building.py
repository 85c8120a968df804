"""Builds that take half a second: tiny checkpoints, ONNX Runtime, a handful of texts to judge them by."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import checkpoints
from tritext import contract
from tritext.build import BuildOptions, BuildResult, build
from tritext.build.source import locate
from tritext.errors import TritextError
from tritext.manifest import MANIFEST, sha256
from tritext.pipeline import Pipeline
from tritext.progress import Progress
from tritext.repository import BuiltModel, committed
from tritext.stages.base import Request

TEXTS = ("Hello world", "Ein zweiter, etwas längerer Text über Freiheit und Würde.", "", "日本語 🙂")
# Enough to choose a precision by: of all lengths, each told apart by its words.
JUDGED = tuple(f"{i} " + " ".join(TEXTS[1].split()[i % 4 : 4 + i % 5]) * (1 + i % 7) for i in range(36))
PAIRS = (("All human beings", "are born free"), ("", "equal"), ("in dignity and rights " * 30, "and rights"))


def make_checkpoint(
    folder: Path, head: str = "single", *, architecture: str = "bert", seed: int = 0, **config: Any
) -> Path:
    """A tiny checkpoint with random weights that matter."""
    made = checkpoints.ARCHITECTURES[architecture].but(**config)
    return checkpoints.make(folder, made, checkpoints.HEADS[head], seed=seed)


@contextmanager
def few_texts() -> Iterator[None]:
    """Judge builds by `TEXTS` and `PAIRS` alone."""

    def texts(*, pairs: bool) -> Sequence[Any]:
        return [*TEXTS, *(PAIRS if pairs else ())]

    with mock.patch("tritext.build.builder.parity_texts", texts):
        yield


def quick_build(
    checkpoint: Path, repository: Path, name: str = "model", *, progress: Progress | None = None, **options: Any
) -> BuildResult:
    """Build `checkpoint` into `repository`; `options` are those of BuildOptions."""
    chosen = BuildOptions(name, repository, **{"engine": "onnxruntime", "precision": "fp32", **options})
    with few_texts():
        return build(locate(str(checkpoint)), chosen, progress)


def text_inputs(texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, Any]:
    """TEXT [N, 1], and TEXT_PAIR [N, 1]."""
    inputs = {contract.TEXT.name: texts} | ({} if pairs is None else {contract.TEXT_PAIR.name: pairs})
    return {name: np.array([[t.encode()] for t in column], dtype=np.object_) for name, column in inputs.items()}


def answers(model: BuiltModel, **parameters: object) -> list[tuple[list[str], list[float]]]:
    """What a model that is loaded anew says to `TEXTS`: labels and scores of each."""
    traces = Pipeline.load(model).run([Request(text_inputs([text]), parameters) for text in TEXTS])
    found = []
    for trace in traces:
        if isinstance(trace, TritextError):
            raise trace
        labels = [label.decode() for label in trace.tensors["LABEL"][0]]
        found.append((labels, [round(float(score), 4) for score in trace.tensors["SCORE"][0]]))
    return found


def record_anew(model: BuiltModel) -> None:
    """Have the manifest say of every file what it is now, after a test has changed some."""
    path = model.folder / MANIFEST
    values = json.loads(path.read_text(encoding="utf-8"))
    values["files"] = {each: sha256(model.repository / each) for each in values["files"]}
    path.write_text(json.dumps(values), encoding="utf-8")


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below `folder`, with a file's hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def model(repository: Path, name: str = "texts") -> BuiltModel:
    """The committed model `name` of a repository."""
    found = committed(repository, name)
    assert found is not None
    return found
