"""Which text of a pair is cut: ids as transformers' tokenizer gives them under each strategy."""

from collections.abc import Callable

import pytest
from asking import Ask, inputs_of, rows
from hard_texts import PAIRS, SINGLE
from reference import Reference
from zoo import Zoo

from tritext.errors import InvalidInput, TritextError
from tritext.stages.base import Request
from tritext.stages.tokenizer import TokenizerStage

LONG = "word " * 300
SENT = [*PAIRS, (LONG, "short"), ("short", LONG), (SINGLE[25], SINGLE[26])]


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["bert.single", "roberta.single", "modernbert.single"])
def test_ids_are_those_of_transformers(
    name: str, side: str, strategy: str, zoo: Zoo, reference: Callable[[str], Reference]
) -> None:
    stage, tokenizer = TokenizerStage.load(zoo.model(name).step("tokenizer")), reference(name).tokenizer
    tokenizer.truncation_side = side
    longest, cut, refused = tokenizer.model_max_length, 0, 0
    for pair in SENT:
        sent = {"truncation": side, "truncation_strategy": strategy}
        (answer,) = stage.process([Request(inputs_of([pair]), sent)])
        kept = {"only_first": pair[1], "only_second": pair[0]}.get(strategy, "")
        alone = len(tokenizer(kept, add_special_tokens=False)["input_ids"])
        if alone + tokenizer.num_special_tokens_to_add(pair=True) > longest:
            assert isinstance(answer, InvalidInput)
            assert f"truncation_strategy={strategy} keeps it whole" in str(answer)
            refused += 1
            continue
        wanted = tokenizer([pair[0]], [pair[1]], truncation=strategy, max_length=longest)["input_ids"][0]
        assert not isinstance(answer, TritextError), answer
        assert answer["input_ids"][0].tolist() == wanted, (pair, strategy)
        cut += bool(answer["TRUNCATED"][0, 0])
    assert cut > 1
    assert (refused > 0) == (strategy != "longest_first")


def test_over_the_wire_a_pair_that_cannot_be_is_refused_alone(ask: Callable[[str, str], Ask]) -> None:
    send = ask("bert.single", "over gRPC")
    assert len(rows(send([("short", LONG)], truncation_strategy="only_second"))) == 1
    with pytest.raises(InvalidInput, match=r"TEXT_PAIR\[0\] leaves none of the model's 128 tokens to the other text"):
        send([("short", LONG)], truncation_strategy="only_first")
    with pytest.raises(InvalidInput, match=r"TEXT\[0\] leaves none"):
        send([(LONG, "short")], truncation_strategy="only_second")
    assert len(rows(send([LONG], truncation_strategy="only_second"))) == 1  # a single text is cut as ever
