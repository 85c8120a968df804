"""Each further task around a native TensorRT plan, in the real Triton, with the plan run by a stand-in on the CPU."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import Tensors
from hard_texts import SINGLE
from serving import Served

import checkpoints
import planning
from building import make_checkpoint, quick_build
from checkpoints import ARCHITECTURES, HEADS, SEQUENCE, Head
from tritext.build.checkpoint import Overrides
from tritext.errors import EngineError
from tritext.pipeline import Pipeline, Trace
from tritext.repository import BuiltModel
from tritext.stages.base import Request

Inputs = Mapping[str, Sequence[Sequence[str]]]

SCORE_TOLERANCE = 1e-4
# By task: the checkpoint's head, and what a build is told.
TASKS: Mapping[str, tuple[Head, Overrides]] = {
    "question-answering": (HEADS["spans"], Overrides()),
    "zero-shot-classification": (
        Head(SEQUENCE, ("contradiction", "neutral", "entailment")),
        Overrides(task="zero-shot-classification"),
    ),
    "feature-extraction": (HEADS["none"], Overrides(pooling="mean")),
    "reranking": (HEADS["one"], Overrides(task="reranking")),
    "fill-mask": (HEADS["masked"], Overrides()),
}
CONVOLVED = {"conv_kernel_size": 3, "conv_act": "gelu", "position_biased_input": True, "type_vocab_size": 2}
NEED_PACKED = ("zero-shot-classification", "reranking", "fill-mask")
WAYS = [(task, batching) for task in TASKS for batching in ("packed", "buckets")
        if batching == "packed" or task not in NEED_PACKED]  # fmt: skip

TEXTS = [text for text in SINGLE[3:60:5] if "\0" not in text]
SHORT = [text for text in TEXTS if len(text) < 1000]
LONG = " ".join(text for text in SINGLE[:60] if "\0" not in text)
CANDIDATES = ["politics", "Freiheit und Würde", "日本", "спорт"]
MASKED = [f"{' '.join(text.split()[:4])} [MASK] {text} [MASK]" for text in TEXTS]


def questions(contexts: Sequence[str]) -> Inputs:
    return {"QUESTION": [[f"{text[:20]}?"] for text in contexts], "CONTEXT": [[text] for text in contexts]}


# By task: inputs and parameters of a request. A window of a question's context is a row.
REQUESTS: Mapping[str, Sequence[tuple[Inputs, Mapping[str, Any]]]] = {
    "question-answering": [
        (questions(SHORT), {"top_k": 3}),
        (questions(SHORT[:2]), {"max_seq_len": 64, "handle_impossible_answer": True, "top_k": 5}),
    ],
    "zero-shot-classification": [
        ({"TEXT": [[text] for text in TEXTS], "CANDIDATE_LABELS": [CANDIDATES] * len(TEXTS)}, {}),
        ({"TEXT": [[TEXTS[0]]], "CANDIDATE_LABELS": [CANDIDATES]}, {"multi_label": True}),
    ],
    "feature-extraction": [
        ({"TEXT": [[text] for text in TEXTS]}, {"normalize": True}),
        ({"TEXT": [[TEXTS[1]]]}, {}),
    ],
    "reranking": [({"QUERY": [["human rights"], ["Freiheit"]], "DOCUMENTS": [TEXTS[:10], TEXTS[9::-1]]}, {})],
    "fill-mask": [
        ({"TEXT": [[text] for text in MASKED]}, {"top_k": 3}),
        ({"TEXT": [["[MASK] " * 100]]}, {"top_k": 1}),
    ],
}


@dataclass(frozen=True)
class Pair:
    """The same checkpoint as a plan that is served, and on OpenVINO in this process."""

    served: Served
    model: BuiltModel
    openvino: Pipeline
    calls: Path

    def check(self, inputs: Inputs, parameters: Mapping[str, Any]) -> None:
        """Ask both, and compare."""
        self.check_served(inputs, parameters, self.expected(inputs, parameters))

    def expected(self, inputs: Inputs, parameters: Mapping[str, Any]) -> Tensors:
        """What OpenVINO answers."""
        arrays = {name: np.array([[text.encode() for text in row] for row in rows], dtype=np.object_)
                  for name, rows in inputs.items()}  # fmt: skip
        (trace,) = self.openvino.run([Request(arrays, parameters)])
        assert isinstance(trace, Trace), trace
        return trace.tensors

    def check_served(self, inputs: Inputs, parameters: Mapping[str, Any], expected: Tensors) -> None:
        """Compare every output of the server."""
        for name, array in self.served.infer(self.model.name, inputs, **parameters).items():
            wanted = expected[name]
            assert array.shape == wanted.shape, name
            if array.dtype == np.float32:
                np.testing.assert_allclose(array, wanted, atol=SCORE_TOLERANCE, rtol=0, err_msg=name)
            else:
                assert array.tolist() == wanted.tolist(), name

    def plan_calls(self) -> list[dict[str, Any]]:
        """What the plan was asked so far."""
        return planning.plan_calls(self.calls, self.model)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    return {task: checkpoints.make(root / task, ARCHITECTURES["bert"], head) for task, (head, _) in TASKS.items()}


@pytest.fixture(scope="module")
def pairs(folders: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    folder = tmp_path_factory.mktemp("tensorrt")
    models = {}
    for task, batching in WAYS:
        name = f"{task}.{batching}"
        models[name] = quick_build(folders[task], folder / "plans", name, engine="tensorrt", batching=batching,
                                   overrides=TASKS[task][1]).model  # fmt: skip
    here = {
        task: Pipeline.load(
            quick_build(folders[task], folder / "here", task, engine="openvino", overrides=overrides).model
        )
        for task, (_, overrides) in TASKS.items()
    }
    planning.prepared(list(models.values()))
    calls = folder / "calls.jsonl"
    with planning.recorded(calls), planning.served(list(models.values()), folder) as server:
        served = Served(folder / "plans", server)
        yield {f"{task}.{batching}": Pair(served, models[f"{task}.{batching}"], here[task], calls)
               for task, batching in WAYS}  # fmt: skip


@pytest.mark.parametrize(("task", "batching"), WAYS)
def test_answers_are_those_of_openvino(task: str, batching: str, pairs: Mapping[str, Pair]) -> None:
    pair = pairs[f"{task}.{batching}"]
    before = len(pair.plan_calls())
    for inputs, parameters in REQUESTS[task]:
        pair.check(inputs, parameters)
    assert len(pair.plan_calls()) > before


@pytest.mark.parametrize(("task", "batching"), WAYS)
def test_texts_of_several_callers_do_not_mix(task: str, batching: str, pairs: Mapping[str, Pair]) -> None:
    pair = pairs[f"{task}.{batching}"]
    inputs, parameters = REQUESTS[task][0]
    size = len(next(iter(inputs.values())))
    alone = [{name: rows[row : row + 1] for name, rows in inputs.items()} for row in range(size)]
    asked = [(one, parameters, pair.expected(one, parameters)) for one in alone]  # a pipeline is for one thread
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: pair.check_served(*each), asked * 3))


def test_the_windows_of_a_long_context_lie_in_many_calls(pairs: Mapping[str, Pair]) -> None:
    pair = pairs["question-answering.packed"]
    before = len(pair.plan_calls())
    pair.check({"QUESTION": [["Was heißt das?"]], "CONTEXT": [[LONG]]}, {"top_k": 20})
    calls = pair.plan_calls()[before:]
    assert len(calls) > 1
    assert {call["shapes"]["input_ids"][0] for call in calls} == {1}


@pytest.mark.parametrize("task", NEED_PACKED)
def test_what_a_bucket_cannot_answer_is_no_build(task: str, folders: Mapping[str, Path], tmp_path: Path) -> None:
    expected = f"{task} with TensorRT needs a graph that takes several texts a row: leave --batching at packed, or"
    with pytest.raises(EngineError, match=expected):
        quick_build(folders[task], tmp_path, engine="tensorrt", batching="buckets", overrides=TASKS[task][1])


def test_a_checkpoint_whose_texts_cannot_share_a_row_is_not_told_to_pack_them(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "c", "masked", architecture="deberta-v2", **CONVOLVED)
    with pytest.raises(EngineError, match="answers are not the same in one: choose another --engine"):
        quick_build(checkpoint, tmp_path / "r", engine="tensorrt")
