"""Token ids and type ids are those of transformers' tokenizer, for every tokenizer, side and kind of text."""

from collections.abc import Callable

import numpy as np
import pytest
from asking import inputs_of
from hard_texts import ANY_TEXT, PAIRS, SINGLE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import Item, Reference
from zoo import VARIANTS, Real, Zoo

from tritext.stages.base import Request
from tritext.stages.tokenizer import TokenizerStage


def one_for_each_tokenizer() -> list[str]:
    """Names of variants; a sequence classifier where there is one, for pairs."""
    found = {}
    for name, variant in sorted(VARIANTS.items(), key=lambda item: item[1].is_tokens):
        architecture = variant.architecture
        key = (architecture.tokenizer_class, str(architecture.tokenizer_config), variant.slow)
        found.setdefault((name,) if isinstance(variant, Real) else key, name)
    return sorted(found.values())


TOKENIZERS = one_for_each_tokenizer()


def check(stage: TokenizerStage, reference: Reference, items: list[Item], side: str) -> None:
    (answer,) = stage.process([Request(inputs_of(items), {"truncation": side})])
    assert isinstance(answer, dict), answer
    for index, item in enumerate(items):
        wanted = reference.encode(item, side)
        size = len(wanted["input_ids"])
        assert answer["input_ids"][index, :size].tolist() == wanted["input_ids"], (item, side)
        assert answer["attention_mask"][index].sum() == size
        if "token_type_ids" in answer:
            assert answer["token_type_ids"][index, :size].tolist() == wanted["token_type_ids"], (item, side)
        np.testing.assert_array_equal(answer["input_ids"][index, size:], reference.tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def stage(zoo: Zoo) -> Callable[[str], TokenizerStage]:
    return lambda name: TokenizerStage.load(zoo.model(name).step("tokenizer"))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_are_the_checkpoints(
    name: str, side: str, stage: Callable[[str], TokenizerStage], reference: Callable[[str], Reference]
) -> None:
    check(stage(name), reference(name), list(SINGLE), side)
    if not VARIANTS[name].is_tokens:
        check(stage(name), reference(name), list(PAIRS), side)


@pytest.mark.parametrize("name", [name for name in TOKENIZERS if name.endswith("single") and "slow" not in name])
def test_ids_of_any_text_or_pair(
    name: str, stage: Callable[[str], TokenizerStage], reference: Callable[[str], Reference]
) -> None:
    tokenizer = stage(name)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(ANY_TEXT, min_size=1, max_size=4), ANY_TEXT, st.integers(1, 9), st.sampled_from(["right", "left"]))
    def compare(texts: list[str], other: str, times: int, side: str) -> None:
        check(tokenizer, reference(name), list(texts), side)
        pairs = [(text * times, other * (10 - times)) for text in texts]
        check(tokenizer, reference(name), list(pairs), side)

    compare()
