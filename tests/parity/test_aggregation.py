"""Our aggregation over arrays against the pipeline's own code, on any labels, scores, words and texts."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from comparing import STRATEGIES
from hard_texts import ANY_TEXT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Reference
from transformers import TokenClassificationPipeline
from transformers.pipelines.token_classification import AggregationStrategy
from zoo import Zoo

from tritext import contract
from tritext.settings import TaskSettings
from tritext.stages.base import Request
from tritext.stages.tokenizer import TokenizerStage
from tritext.tasks.token_classification import TASK, TokenClassificationParameters

TAGS = st.sampled_from(["PER", "LOC", "国", "", "B", "I-", "X-Y", "O"])
LABELS = st.lists(
    st.tuples(st.sampled_from(["B-", "I-", "", "X-", "b-", "-"]), TAGS).map("".join), min_size=1, max_size=6
)


class Oracle(TokenClassificationPipeline):
    """The pipeline's own `aggregate`, without a model."""

    def __init__(self, labels: list[str]) -> None:
        self.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(labels))))
        self.tokenizer = SimpleNamespace(convert_tokens_to_string=" ".join)


def settings_with(labels: list[str]) -> TaskSettings:
    return TaskSettings(
        task="token-classification", labels=tuple(labels), problem_type=None, max_length=128,
        encoder_inputs=("input_ids", "attention_mask"), pad_id=0, unk_id=None,
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(LABELS, st.data())
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_aggregates_as_the_pipeline_does(strategy: str, labels: list[str], data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from([contract.WORD_START, contract.SUBWORD, contract.SPECIAL]), max_size=12))
    # Whole numbers: there are ties, and no rounding decides.
    numbers = st.lists(st.integers(-3, 3), min_size=len(labels), max_size=len(labels))
    logits = np.array([data.draw(numbers) for _ in kinds], dtype=np.float32).reshape(len(kinds), len(labels))
    ignored = data.draw(st.lists(st.sampled_from([*labels, "O", "PER", ""]), max_size=3))
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-9))
    scores = shifted / shifted.sum(axis=-1, keepdims=True)
    entities = [
        {"word": "w", "scores": scores[i], "start": 2 * i, "end": 2 * i + 1, "index": i,
         "is_subword": kind == contract.SUBWORD}
        for i, kind in enumerate(kinds) if kind != contract.SPECIAL
    ]  # fmt: skip
    found = Oracle(labels).aggregate(entities, AggregationStrategy(strategy))
    expected = [
        (entity.get("entity", entity.get("entity_group")), entity["start"], entity["end"], entity["score"])
        for entity in found
        if entity.get("entity", entity.get("entity_group")) not in ignored
    ]

    text = np.array([["x" * 2 * len(kinds)]]).astype(object)
    text[0, 0] = text[0, 0].encode()
    offsets = np.array([[[2 * i, 2 * i + 1] for i in range(len(kinds))]], dtype=np.int32).reshape(1, -1, 2)
    arrays = {"TEXT": text, "offsets": offsets, "token_kind": np.array([kinds], dtype=np.uint8)}
    parameters = TokenClassificationParameters(aggregation_strategy=strategy, ignore_labels=tuple(ignored))  # type: ignore[arg-type]
    answer: Any = TASK.answer(logits[None], arrays, settings_with(labels), parameters)
    got = list(zip(answer["LABEL"][0], answer["START"][0], answer["END"][0], answer["SCORE"][0], strict=True))
    assert [(label.decode(), start, end) for label, start, end, _ in got] == [row[:3] for row in expected]
    assert [row[3] for row in got] == pytest.approx([row[3] for row in expected], abs=1e-6)


@pytest.mark.parametrize("name", ["bert.tokens", "bert.cased.tokens", "mpnet.tokens", "roberta.tokens",
                                  "roberta.prefix_space.tokens", "albert.tokens", "deberta-v2.tokens",
                                  "xlm-roberta.tokens", "camembert.tokens"])  # fmt: skip
def test_finds_words_and_places_as_the_pipeline_does(
    name: str, zoo: Zoo, reference: Callable[[str], Reference]
) -> None:
    stage = TokenizerStage.load(zoo.model(name).step("tokenizer"))
    pipe = reference(name).pipe
    reference(name).tokenizer.truncation_side = "right"

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(ANY_TEXT)
    def compare(text: str) -> None:
        (inputs,) = pipe.preprocess(text, is_split_into_words=False)
        scores = np.zeros((inputs["input_ids"].shape[1], 1))
        entities = pipe.gather_pre_entities(
            text, inputs["input_ids"][0], scores, inputs["offset_mapping"][0], inputs["special_tokens_mask"][0].numpy(),
            AggregationStrategy.NONE,
        )  # fmt: skip
        raw = np.empty((1, 1), dtype=np.object_)
        raw[0, 0] = text.encode()
        (answer,) = stage.process([Request({"TEXT": raw})])
        assert isinstance(answer, dict)
        kinds, offsets = answer["token_kind"][0], answer["offsets"][0]
        real = np.flatnonzero(kinds != contract.SPECIAL)
        assert real.tolist() == [entity["index"] for entity in entities]
        assert offsets[real].tolist() == [[entity["start"], entity["end"]] for entity in entities]
        assert (kinds[real] == contract.SUBWORD).tolist() == [entity["is_subword"] for entity in entities]

    compare()
