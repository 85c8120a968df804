"""Every sequence classifier answers as `transformers.pipeline` does with the same checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from asking import Ask, rows
from comparing import compare_texts
from hard_texts import PAIRS, SINGLE
from reference import Reference
from zoo import own_texts, ways

from tritext.errors import InvalidInput

REQUESTS: Sequence[Mapping[str, Any]] = (
    {},
    {"top_k": 2},
    {"top_k": "all"},
    {"top_k": 50, "function_to_apply": "default"},
    {"top_k": "all", "function_to_apply": "softmax"},
    {"top_k": "all", "function_to_apply": "sigmoid"},
    {"top_k": "all", "function_to_apply": "none"},
    {"top_k": "all", "threshold": 0.25},
    {"top_k": 3, "threshold": "0.9", "function_to_apply": "SIGMOID"},
    {"truncation": "left", "top_k": "all"},
)


def default_side(name: str) -> str:
    """Where a text is cut if the request does not say."""
    return "left" if name == "bert.left" else "right"


@pytest.mark.parametrize(("name", "way"), ways(is_tokens=False))
def test_answers_single_texts_as_the_pipeline_does(
    name: str, way: str, reference: Callable[[str], Reference], ask: Callable[[str, str], Ask]
) -> None:
    texts = (*SINGLE, *own_texts(name))
    comparison = compare_texts(reference(name), ask(name, way), texts, REQUESTS, default_side=default_side(name))
    print(f"{name} {way}: {comparison.compared} compared, worst {comparison.worst:.1e}")
    comparison.check()


@pytest.mark.parametrize(("name", "way"), ways(is_tokens=False))
def test_answers_pairs_as_the_pipeline_does(
    name: str, way: str, reference: Callable[[str], Reference], ask: Callable[[str, str], Ask]
) -> None:
    requests = ({"top_k": "all"}, {"top_k": "all", "truncation": "left"})
    comparison = compare_texts(reference(name), ask(name, way), PAIRS, requests, default_side=default_side(name))
    print(f"{name} {way}: {comparison.compared} compared, worst {comparison.worst:.1e}")
    comparison.check()


@pytest.mark.parametrize("name", ["bert.single", "bert.multi", "bert.regression", "bert.one", "roberta.regressions"])
def test_the_reference_is_what_the_pipeline_gives_when_called(name: str, reference: Callable[[str], Reference]) -> None:
    it = reference(name)
    it.tokenizer.truncation_side = "right"
    for text in ("OK", "人人生而自由", ""):
        assert it.pipe(text, top_k=None) == it.answers(text, top_k=None)
        assert it.pipe(text) == it.answers(text, top_k=1)
    assert it.pipe({"text": "a", "text_pair": "b"}, top_k=None) == it.answers(("a", "b"), top_k=None)


@pytest.mark.parametrize(("name", "way"), ways(is_tokens=False))
def test_says_how_long_each_text_is(
    name: str, way: str, reference: Callable[[str], Reference], ask: Callable[[str, str], Ask]
) -> None:
    for items in (SINGLE, PAIRS):
        tensors = ask(name, way)(items)
        lengths = [reference(name).length(item) for item in items]
        assert tensors["TOKEN_COUNT"][:, 0].tolist() == lengths
        longest = reference(name).tokenizer.model_max_length
        assert tensors["TRUNCATED"][:, 0].tolist() == [length > longest for length in lengths]
        assert any(tensors["TRUNCATED"])


@pytest.mark.parametrize("name", ["bert.single", "roberta.single", "xlm-roberta.single"])
def test_refuses_what_is_too_long_under_error(
    name: str, reference: Callable[[str], Reference], ask: Callable[[str, str], Ask]
) -> None:
    lengths = {text: reference(name).length(text) for text in SINGLE}
    fitting = [text for text, length in lengths.items() if length <= 128]
    long = next(text for text, length in lengths.items() if length > 128)
    send = ask(name, "over gRPC")
    assert len(rows(send(fitting, truncation="error"))) == len(fitting)
    with pytest.raises(InvalidInput, match=rf"TEXT\[1\] has {lengths[long]} tokens, this model takes 128"):
        send(["short", long], truncation="error")
    with pytest.raises(InvalidInput, match=r"TEXT\[0\] and TEXT_PAIR\[0\] together have \d+ tokens"):
        send([("short", long)], truncation="error")


@pytest.mark.parametrize("name", ["bert.single", "roberta.single", "xlm-roberta.single"])
def test_answers_a_megabyte_of_text(
    name: str, reference: Callable[[str], Reference], ask: Callable[[str, str], Ask]
) -> None:
    text = " ".join(SINGLE)
    text = text * (1_000_000 // len(text.encode()) + 1)
    assert len(text.encode()) > 1_000_000
    requests = ({"top_k": "all"}, {"top_k": "all", "truncation": "left"})
    compare_texts(reference(name), ask(name, "over gRPC"), [text, "short"], requests).check()
