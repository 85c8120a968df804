"""The whole ensemble around a native TensorRT plan, in the real Triton, with the plan run by a stand-in on the CPU."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from asking import Ask, OverGrpc, rows
from comparing import Comparison, compare_texts, compare_tokens
from hard_texts import PAIRS, SINGLE
from reference import Answer, Item, Reference
from zoo import Zoo

import planning
from checkpoints import ARCHITECTURES
from tritext.build import BuildOptions, build
from tritext.build.gate import Bounds
from tritext.build.options import Batching
from tritext.build.source import locate
from tritext.engines.plan import RECIPE, Recipe
from tritext.engines.shapes import Buckets
from tritext.errors import InvalidInput
from tritext.naming import step_name
from tritext.repository import BuiltModel
from tritext.serve import Server

CALLERS = 16
PACKED = tuple(f"{name}.{head}" for name in ARCHITECTURES for head in ("single", "tokens"))
BUCKETS = ("bert.single", "roberta.tokens", "deberta-v2.single", "distilbert.tokens")
LOOSE = Bounds(agreement=0.5, drift=1.0)  # for int8: random weights are more than it can bear
HALVES = ("fp16", "int8")
LONG = " ".join([text for text in SINGLE if "\0" not in text] * 3)
PAGE = " ".join(SINGLE[:16])
BOOK = " ".join([LONG] * 8)  # more than a megabyte


def label(variant: str, batching: str, precision: str = "fp32") -> str:
    return f"{variant}.{batching}.{precision}"


@dataclass(frozen=True)
class Ensembles:
    """The built models by label, the server that has them, and the file with its plans' calls."""

    models: dict[str, BuiltModel]
    server: Server
    client: triton.InferenceServerClient
    calls: Path

    def ask(self, name: str) -> OverGrpc:
        return OverGrpc(self.client, name)

    def plan_calls(self, name: str) -> list[dict[str, Any]]:
        """What the plan of `name` was asked so far."""
        return planning.plan_calls(self.calls, self.models[name])


@pytest.fixture(scope="module")
def ensembles(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ensembles]:
    folder = tmp_path_factory.mktemp("tensorrt")
    wanted: list[tuple[str, Batching, str]] = [(variant, "packed", "fp32") for variant in PACKED]
    wanted += [(variant, "buckets", "fp32") for variant in BUCKETS]
    wanted += [("bert.single", batching, precision) for batching in ("packed", "buckets") for precision in HALVES]
    models = {}
    for variant, batching, precision in wanted:
        name = label(variant, batching, precision)
        options = BuildOptions(name, folder / "repository", engine="tensorrt", precision=precision, batching=batching,
                               bounds=LOOSE if precision == "int8" else Bounds())  # fmt: skip
        models[name] = build(locate(str(zoo.checkpoint(variant))), options).model
    planning.prepared(list(models.values()))
    calls = folder / "calls.jsonl"
    with (
        planning.recorded(calls),
        planning.served(list(models.values()), folder) as server,
        triton.InferenceServerClient(server.grpc_url) as client,
    ):
        yield Ensembles(models, server, client, calls)


@pytest.mark.parametrize("name", [*(label(v, "packed") for v in PACKED), *(label(v, "buckets") for v in BUCKETS)])
def test_answers_are_the_checkpoints(name: str, ensembles: Ensembles, reference: Callable[[str], Reference]) -> None:
    variant = ".".join(name.split(".")[:2])
    if variant.endswith("tokens"):
        requests = ({"aggregation_strategy": "simple"}, {"aggregation_strategy": "none", "ignore_labels": "[]"})
        for texts in _few(SINGLE):
            compare_tokens(reference(variant), ensembles.ask(name), texts, requests).check()
    else:
        for texts in _few(SINGLE):
            compare_texts(reference(variant), ensembles.ask(name), texts, ({"top_k": "all"},)).check()
        compare_texts(reference(variant), ensembles.ask(name), PAIRS, ({"top_k": "all"},)).check()


def _few(texts: tuple[str, ...], number: int = 40) -> list[tuple[str, ...]]:
    return [texts[start : start + number] for start in range(0, len(texts), number)]


@pytest.mark.parametrize("batching", ["packed", "buckets"])
def test_mixed_lengths_are_merged_and_never_leave_the_profiles(
    batching: str, ensembles: Ensembles, reference: Callable[[str], Reference]
) -> None:
    name = label("bert.single", batching)
    before = len(ensembles.plan_calls(name))
    items: tuple[Item, ...] = (*SINGLE, *PAIRS)
    requests = list(islice(cycle([[item] for item in items]), 3 * len(items)))
    ask = ensembles.ask(name)
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(lambda texts: rows(ask(texts, top_k="all")), requests))
    comparison = Comparison(reference("bert.single"))
    for (item,), (answer,) in zip(requests, answers, strict=True):
        comparison.add(item, answer, top_k=None)
    comparison.check()
    calls = ensembles.plan_calls(name)[before:]
    print(f"{batching}: {len(requests)} requests in {len(calls)} calls of the plan")
    # One that leaves its profiles is refused, and no request was. Triton's batcher stops at the first of another shape.
    assert len(calls) < (0.8 if batching == "packed" else 1.0) * len(requests)
    lengths = Counter(call["shapes"]["input_ids"][-1] for call in calls)
    assert len(lengths) > 2  # texts of every length were among them


def test_requests_of_one_bucket_merge_in_triton_itself(ensembles: Ensembles) -> None:
    name = label("bert.single", "buckets")
    step = step_name(name, "encoder", ensembles.models[name].build)
    calls = [call for call in ensembles.plan_calls(name) if call["model"] == step]
    assert max(call["requests"] for call in calls) > 1
    recipe = Recipe.read(ensembles.models[name].step("encoder"))
    shapes = recipe.plan_shapes()
    assert isinstance(shapes, Buckets)
    assert {call["shapes"]["input_ids"][1] for call in calls} <= set(shapes.lengths)


@pytest.mark.parametrize("batching", ["packed", "buckets"])
@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1e-2), ("int8", 0.25)])
def test_half_and_quantised_graphs_are_near_the_checkpoint(
    batching: str, precision: str, bound: float, ensembles: Ensembles, reference: Callable[[str], Reference]
) -> None:
    name = label("bert.single", batching, precision)
    texts = [text for text in SINGLE if text.strip()][:24]
    served = rows(ensembles.ask(name)(texts, top_k="all", function_to_apply="none"))
    worst = 0.0
    scale = 1.0
    for text, answers in zip(texts, served, strict=True):
        expected = {each["label"]: each["score"] for each in
                    reference("bert.single").answers(text, top_k=None, function_to_apply="none")}  # fmt: skip
        scale = max(scale, *(abs(score) for score in expected.values()))
        worst = max([worst, *(abs(each["score"] - expected[each["label"]]) for each in answers)])
    print(f"{name}: logits differ by {worst:.2g} of {scale:.2g}")
    assert 0 < worst <= bound * scale


def test_the_graph_travels_and_the_plan_does_not(ensembles: Ensembles) -> None:
    for model in ensembles.models.values():
        files = set(model.manifest().files)
        assert any(path.endswith(f"/{RECIPE}") for path in files)
        assert not any(path.endswith("model.plan") for path in files)
        assert not model.damage()


def test_a_text_of_all_tokens_and_one_of_none(ensembles: Ensembles) -> None:
    for batching in ("packed", "buckets"):
        answers = rows(ensembles.ask(label("bert.single", batching))(["", "word " * 600, "a"], top_k=1))
        assert [len(row) for row in answers] == [1, 1, 1]
        assert np.isfinite([row[0]["score"] for row in answers]).all()


@pytest.mark.parametrize(("text", "rule"), [(BOOK, "mean"), (LONG, "max")], ids=["a book", "a chapter"])
def test_a_long_text_is_one_answer_of_many_calls(
    text: str, rule: str, ensembles: Ensembles, ask: Callable[[str, str], Ask]
) -> None:
    parameters = {"truncation": "window", "windows": rule, "top_k": "all"}
    got = _in_calls("bert.single", [text, PAGE], ensembles, **parameters)
    expected = rows(ask("bert.single", "in process")([text, PAGE], **parameters))
    for mine, wanted in zip(got, expected, strict=True):
        assert [each["label"] for each in mine] == [each["label"] for each in wanted]
        assert [each["score"] for each in mine] == pytest.approx([each["score"] for each in wanted], abs=1e-4)
        assert len({round(each["score"], 3) for each in mine}) == len(mine)  # or their order would mean nothing


def test_every_token_of_a_long_text_is_answered_though_its_windows_lie_in_many_calls(
    ensembles: Ensembles, ask: Callable[[str, str], Ask]
) -> None:
    parameters = {"truncation": "window", "aggregation_strategy": "none", "ignore_labels": "[]"}
    answers = _in_calls("bert.tokens", [LONG, PAGE], ensembles, **parameters)
    for got, expected in zip(answers, rows(ask("bert.tokens", "in process")([LONG, PAGE], **parameters)), strict=True):
        for field in ("start", "end", "word"):
            assert [each[field] for each in got] == [each[field] for each in expected]
        assert [each["score"] for each in got] == pytest.approx([each["score"] for each in expected], abs=1e-4)
        others = [one for one, other in zip(got, expected, strict=True) if one["label"] != other["label"]]
        assert len(others) <= len(got) / 1000  # two labels may be as likely to rounding


def _in_calls(variant: str, texts: list[str], ensembles: Ensembles, **parameters: str) -> list[list[Answer]]:
    """The packed model's answers to one request, which makes many calls of the plan, each of a size it is built for."""
    name = label(variant, "packed")
    before = len(ensembles.plan_calls(name))
    tensors = ensembles.ask(name)(texts, **parameters)
    sizes = [int(np.prod(call["shapes"]["input_ids"])) for call in ensembles.plan_calls(name)[before:]]
    tokens = int(tensors["TOKEN_COUNT"].sum())
    print(f"{name}: {tokens:,} tokens in {len(sizes)} calls of the plan")
    assert tokens > 4 * 8192
    assert len(sizes) > 4
    assert max(sizes) <= 8192
    assert sum(sizes) > tokens  # windows overlap
    assert not tensors["TRUNCATED"].any()
    return rows(tensors)


@pytest.mark.parametrize("variant", ["bert.single", "roberta.tokens"])
def test_buckets_take_as_many_windows_as_rows_and_say_what_takes_more(
    variant: str, ensembles: Ensembles, ask: Callable[[str, str], Ask]
) -> None:
    ask_plan = ensembles.ask(label(variant, "buckets"))
    got, expected = (each([PAGE], truncation="window") for each in (ask_plan, ask(variant, "in process")))
    assert got["TOKEN_COUNT"][0, 0] > 8 * 128
    assert [each["label"] for each in rows(got)[0]] == [each["label"] for each in rows(expected)[0]]
    np.testing.assert_allclose(got["SCORE"], expected["SCORE"], atol=1e-4)
    with pytest.raises(InvalidInput, match=r"make \d+ rows for the model, and 64 are the most.*--batching packed"):
        ask_plan([LONG], truncation="window")
