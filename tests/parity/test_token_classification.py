"""Every token classifier finds the entities that `transformers.pipeline` finds with the same checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from asking import Ask, rows
from comparing import STRATEGIES, compare_tokens
from hard_texts import SINGLE
from reference import Reference
from zoo import own_texts, ways

REQUESTS: Sequence[Mapping[str, Any]] = (
    {},
    *({"aggregation_strategy": strategy, "ignore_labels": "[]"} for strategy in STRATEGIES),
    {"aggregation_strategy": "none", "ignore_labels": "B-PER,I-PER,X-PER"},
    {"aggregation_strategy": "SIMPLE", "ignore_labels": '["PER", "国", "B-PER"]'},
    {"aggregation_strategy": "average", "threshold": 0.6},
)
FEW = (REQUESTS[2], REQUESTS[4])  # where only the tokenizer's files or the model's inside are another
CUT_LEFT = {"aggregation_strategy": "first", "truncation": "left", "ignore_labels": "[]"}


@pytest.mark.parametrize(("name", "way"), ways(is_tokens=True))
def test_finds_the_pipelines_entities(
    name: str, way: str, reference: Callable[[str], Reference], ask: Callable[[str, str], Ask]
) -> None:
    requests = FEW if "slow" in name or "convolved" in name else REQUESTS
    cut_left = () if name == "roberta.prefix_space.tokens" else (CUT_LEFT,)
    texts = (*SINGLE, *own_texts(name))
    comparison = compare_tokens(reference(name), ask(name, way), texts, (*requests, *cut_left))
    print(f"{name} {way}: {comparison.compared} compared, worst {comparison.worst:.1e}")
    comparison.check()


def test_a_word_cut_off_on_its_left_begins_at_its_first_letter(
    reference: Callable[[str], Reference], ask: Callable[[str, str], Ask]
) -> None:
    """The one place where START differs from the pipeline's.

    `tokenizers` cuts before it trims spaces off the offsets, and with ``add_prefix_space`` spares what is then the
    first token. So the pipeline's first entity begins with a space, but only on texts cut on the left.
    """
    name = "roberta.prefix_space.tokens"
    served = rows(ask(name, "in process")(SINGLE, **CUT_LEFT))
    seen = 0
    for text, entities in zip(SINGLE, served, strict=True):
        expected = reference(name).answers(text, side="left", aggregation_strategy="first", ignore_labels=[])
        starts, wanted = ([entity["start"] for entity in found] for found in (entities, expected))
        if starts != wanted:
            assert starts == [wanted[0] + 1, *wanted[1:]]
            assert text[wanted[0]] == " "
            seen += 1
    assert seen


@pytest.mark.parametrize("name", ["bert.tokens", "roberta.tokens", "bert.odd_tags"])
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")
def test_the_reference_is_what_the_pipeline_gives_when_called(name: str, reference: Callable[[str], Reference]) -> None:
    it = reference(name)
    it.tokenizer.truncation_side = "right"
    for strategy in STRATEGIES:
        for text in ("Jane Doe, München", "人人生而自由", ""):
            called = it.pipe(text, aggregation_strategy=strategy)
            assert called == it.answers(text, aggregation_strategy=strategy)


@pytest.mark.parametrize("name", ["bert.tokens", "roberta.tokens", "xlm-roberta.tokens", "bert.odd_tags"])
def test_the_texts_bring_out_what_is_hard(name: str, reference: Callable[[str], Reference]) -> None:
    """Were each word one token, or each text one entity, the comparison would prove little."""
    it = reference(name)
    found = {
        strategy: [it.answers(text, aggregation_strategy=strategy, ignore_labels=[]) for text in SINGLE]
        for strategy in STRATEGIES
    }
    counts = {strategy: sum(map(len, rows)) for strategy, rows in found.items()}
    assert counts["none"] > counts["simple"] > counts["first"] > len(SINGLE)
    assert {entity["entity"] for row in found["none"] for entity in row} == set(it.labels)
    assert len({str(rows) for rows in found.values()}) == len(STRATEGIES)
