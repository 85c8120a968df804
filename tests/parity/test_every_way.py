"""However a model is asked, it answers the same: over gRPC, over HTTP, by `Client` and on the command line."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field, fields, is_dataclass
from math import isclose
from typing import Any

import pytest
from serving import Served, serving

import checkpoints
from building import make_checkpoint, quick_build
from checkpoints import ARCHITECTURES, SEQUENCE, Head
from tritext import Client
from tritext.build.checkpoint import Overrides
from tritext.cli import app
from tritext.results import entries
from tritext.tasks import TASKS

LONG = "All human beings are born free. " + "Sie wohnt in Zürich, er in Genf. " * 30 + "Everyone has a right to it."
MIDDLING = "Es gibt viele Städte, und manche liegen an einem See. " * 4  # more than half of what a model takes
LABELS = ["politics", "Freiheit, Gleichheit", "日本"]
DOCUMENTS = ["born free, and equal", "a cat, a dog", "rights"]
# A parameter that has one value changes nothing.
FIXED = {"question-answering": {"truncation"}}


@dataclass(frozen=True)
class Case:
    """One item for a task's model, the lists that go with it, and parameters of which each one changes the answer."""

    task: str
    item: tuple[str, ...]
    parameters: Mapping[str, Any]
    lists: Mapping[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.task}: {', '.join(self.parameters)}"


CASES = (
    Case("text-classification", (LONG,), {"truncation": "window", "stride": 3, "windows": "max", "top_k": 3}),
    Case("text-classification", ("Vögel",), {"top_k": "all", "function_to_apply": "sigmoid", "threshold": 0.8}),
    Case("text-classification", (LONG, MIDDLING), {"truncation": "left", "truncation_strategy": "only_first"}),
    Case(
        "token-classification",
        ("Ada Lovelace wohnt in Zürich, er in กรุงเทพฯ",),
        {"aggregation_strategy": "simple", "ignore_labels": ["PER", "国"], "threshold": 0.4},
    ),
    Case("token-classification", (LONG,), {"truncation": "window", "stride": 3}),
    Case(
        "question-answering",
        ("Wo wohnt er?", "Er wohnt in Genf."),
        {"top_k": 50, "max_answer_length": 2, "handle_impossible_answer": True},
    ),
    Case("question-answering", ("Wo wohnt er?", LONG), {"top_k": 3, "doc_stride": 16, "max_seq_len": 64}),
    Case("feature-extraction", ("Wer ist das?",), {"prompt": "Frage: ", "normalize": True}),
    Case("feature-extraction", (LONG,), {"prompt_name": "query", "truncation": "left"}),
    Case("fill-mask", ("the [MASK] and [MASK] of rights",), {"top_k": 2, "targets": ["the", "und", "rights"]}),
    Case("fill-mask", (f"the [MASK] {LONG} a [MASK]",), {"truncation": "left"}),
    Case(
        "zero-shot-classification",
        ("All human beings",),
        {"multi_label": True, "hypothesis_template": "Hier geht es um {}, {}."},
        {"candidate_labels": LABELS},
    ),
    Case("zero-shot-classification", (LONG,), {"truncation": "left"}, {"candidate_labels": ["politics", "Freiheit"]}),
    Case("reranking", ("equal",), {"top_k": 2, "function_to_apply": "none"}, {"documents": DOCUMENTS}),
    Case(
        "reranking",
        (LONG,),
        {"truncation": "left", "truncation_strategy": "only_first"},
        {"documents": [MIDDLING, "a cat"]},
    ),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model of each task, under its name."""
    root = tmp_path_factory.mktemp("ways")
    inference = Head(SEQUENCE, ("contradiction", "neutral", "entailment"))
    checkpoint = checkpoints.make(root / "inference", ARCHITECTURES["bert"], inference)
    made = {"text-classification": checkpoint, "zero-shot-classification": checkpoint}
    heads = ("tokens", "token-classification"), ("spans", "question-answering"), ("masked", "fill-mask")
    for head, task in (*heads, ("one", "reranking"), ("none", "feature-extraction")):
        made[task] = make_checkpoint(root / task, head)
    (made["feature-extraction"] / "modules.json").write_text(
        json.dumps([{"type": "models.Transformer", "path": ""}, {"type": "models.Pooling", "path": "1_Pooling"}])
    )
    (made["feature-extraction"] / "config_sentence_transformers.json").write_text('{"prompts": {"query": "Frage: "}}')
    for task, folder in made.items():
        quick_build(folder, root / "repository", task, overrides=Overrides(task=task))
    with serving(root / "repository") as served:
        yield served


@dataclass(frozen=True)
class Answer:
    """A text's entries, each as its fields, and what every answer says."""

    entries: list[tuple[Any, ...]]
    token_count: int
    truncated: bool

    def is_like(self, other: "Answer") -> bool:
        """Equal but for what JSON's digits do to floats."""
        mine, others = ([value for entry in each.entries for value in entry] for each in (self, other))
        return (
            (len(self.entries), self.token_count, self.truncated)
            == (len(other.entries), other.token_count, other.truncated)
            and all(isclose(a, b, rel_tol=1e-5, abs_tol=1e-7) if isinstance(a, float) else a == b
                    for a, b in zip(mine, others, strict=True))
        )  # fmt: skip


def columns(task: str) -> list[str]:
    return [tensor.name for tensor in TASKS[task].outputs if tensor.name != "COUNT"]


def flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As they travel: a list is no parameter there, and is written as one."""
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in parameters.items()}


def over_grpc(served: Served, case: Case, parameters: Mapping[str, Any]) -> Answer:
    inputs = {tensor.name: [[text]] for tensor, text in zip(TASKS[case.task].texts, case.item, strict=False)}
    lists = {name.upper(): [values] for name, values in case.lists.items()}
    tensors = served.infer(case.task, {**inputs, **lists}, **flat(parameters))
    (count,) = tensors["COUNT"][:, 0]
    rows = zip(*(tensors[name][0, :count].tolist() for name in columns(case.task)), strict=True)
    found = [tuple(value.decode() if isinstance(value, bytes) else value for value in row) for row in rows]
    return Answer(found, tensors["TOKEN_COUNT"].item(), tensors["TRUNCATED"].item())


def over_http(served: Served, case: Case) -> Answer:
    inputs = {tensor.name: text for tensor, text in zip(TASKS[case.task].texts, case.item, strict=False)}
    lists = {name.upper(): values for name, values in case.lists.items()}
    said = served.generate(case.task, {**inputs, **lists, **flat(case.parameters)})
    values = [said[name] if said["COUNT"] != 1 else [said[name]] for name in columns(case.task)]  # one is no list
    found = list(zip(*values, strict=True))
    assert len(found) == said["COUNT"]
    return Answer(found, said["TOKEN_COUNT"], said["TRUNCATED"])


def by_client(served: Served, case: Case) -> Answer:
    item: Any = case.item if len(case.item) == 2 else case.item[0]
    with Client(served.server.grpc_url) as client:
        (result,) = client.classify(case.task, [item], **case.parameters, **case.lists)
    found = [astuple(entry) if is_dataclass(entry) else (entry,) for entry in entries(result)]
    return Answer(found, result.token_count, result.truncated)


def on_the_command_line(served: Served, case: Case, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Lists separated by commas, and as JSON where a text of one has a comma."""
    arguments = ["classify", case.task, case.item[0], "--json", "--url", served.server.grpc_url]
    arguments += [part for text in case.item[1:] for part in ("--pair", text)]
    for name, value in {**case.parameters, **case.lists}.items():
        written = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(value, list):
            written = json.dumps(value) if any("," in each for each in value) else ",".join(value)
        arguments += ["--set", f"{name}={written}"]
    app(arguments, standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    ours = said[fields(TASKS[case.task].result)[0].name]
    found = [tuple(entry.values()) if isinstance(entry, dict) else (entry,) for entry in ours]
    return Answer(found, said["token_count"], said["truncated"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_way_to_ask_gives_the_same_answer(case: Case, served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    expected = over_grpc(served, case, case.parameters)
    assert expected.entries
    answers = over_http(served, case), by_client(served, case), on_the_command_line(served, case, capsys)
    for way, answer in zip(("HTTP", "Client", "command line"), answers, strict=True):
        assert answer.is_like(expected), (way, answer, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_parameter_that_got_lost_would_be_seen(case: Case, served: Served) -> None:
    expected = over_grpc(served, case, case.parameters)
    for name in case.parameters:
        rest = {other: value for other, value in case.parameters.items() if other != name}
        assert not over_grpc(served, case, rest).is_like(expected), name


@pytest.mark.parametrize("task", TASKS)
def test_every_parameter_is_among_the_cases(task: str) -> None:
    sent = {name for case in CASES if case.task == task for name in case.parameters}
    assert sent == {each.name for each in fields(TASKS[task].parameters)} - FIXED.get(task, set())
