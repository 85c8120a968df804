"""Request parameters: what is read, what is refused and how, what is none of our business."""

from dataclasses import dataclass
from typing import Any

import pytest

from tritext import parameters
from tritext.errors import InvalidInput
from tritext.parameters import NAMES, PROBABILITY, TOP_K, Parameters, choice, parameter, parse
from tritext.tasks import TASKS

TEXT = TASKS["text-classification"].parameters
TOKENS = TASKS["token-classification"].parameters


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"top_k": 3}, {"top_k": 3}),
        ({"top_k": "3"}, {"top_k": 3}),
        ({"top_k": " 3 "}, {"top_k": 3}),
        ({"top_k": "all"}, {"top_k": None}),
        ({"top_k": "ALL"}, {"top_k": None}),
        ({"top_k": 10**30}, {"top_k": 10**30}),
        ({"threshold": 0.5}, {"threshold": 0.5}),
        ({"threshold": "0.5"}, {"threshold": 0.5}),
        ({"threshold": 1}, {"threshold": 1.0}),
        ({"threshold": "0"}, {"threshold": 0.0}),
        ({"truncation": "LEFT"}, {"truncation": "left"}),
        ({"function_to_apply": "Sigmoid"}, {"function_to_apply": "sigmoid"}),
        ({}, {"top_k": 1, "threshold": None, "truncation": "right", "function_to_apply": "default"}),
    ],
)
def test_values_as_their_own_type_and_as_strings(sent: dict[str, Any], expected: dict[str, Any]) -> None:
    read = parse(TEXT, sent)
    assert {name: getattr(read, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("O,MISC", ("O", "MISC")),
        (" O , MISC ,", ("O", "MISC")),
        ('["O", "a,b"]', ("O", "a,b")),
        (["O"], ("O",)),
        ("", ()),
        ("[]", ()),
    ],
)
def test_names(sent: Any, expected: tuple[str, ...]) -> None:
    assert parse(TOKENS, {"ignore_labels": sent}).ignore_labels == expected


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"top_k": 0}, 'Parameter top_k is 0; it must be a whole number of at least 1, or "all".'),
        ({"top_k": "-1"}, "top_k is '-1'"),
        ({"top_k": "some"}, "top_k is 'some'"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": True}, "top_k is True"),
        ({"top_k": None}, "top_k is None"),
        ({"top_k": "9" * 5000}, "top_k is '999"),
        ({"threshold": 1.01}, "Parameter threshold is 1.01; it must be a number from 0 to 1."),
        ({"threshold": "nan"}, "threshold is 'nan'"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "1e999"}, "threshold is '1e999'"),
        ({"threshold": False}, "threshold is False"),
        ({"threshold": [0.5]}, r"threshold is \[0.5\]"),
        ({"truncation": "middle"}, "truncation is 'middle'; it must be one of error, right, left."),
        ({"truncation": 1}, "truncation is 1; it must be one of"),
        ({"function_to_apply": "tanh"}, "one of default, softmax, sigmoid, none"),
    ],
)
def test_values_that_are_refused(sent: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse(TEXT, sent)


@pytest.mark.parametrize("sent", ["[", '["O", 1]', "[1]", "[" * 100_000, 3, {"O": 1}, [1], b"O"])
def test_names_that_are_refused(sent: Any) -> None:
    with pytest.raises(InvalidInput, match=r"Parameter ignore_labels is .*names separated by commas") as caught:
        parse(TOKENS, {"ignore_labels": sent})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("topk", "Did you mean top_k?"),
        ("Top_K", "Did you mean top_k?"),
        ("treshold", "Did you mean threshold?"),
        ("top-k", "Did you mean top_k?"),  # as the command line spells it; no header's name
        ("Function-To-Apply", "Did you mean function_to_apply?"),
        (
            "zzz",
            "This model takes function_to_apply, stride, threshold, top_k, truncation, truncation_strategy, windows.",
        ),
    ],
)
def test_an_unknown_name_gets_a_hint(name: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(TEXT, {name: 1})
    assert str(caught.value) == f"Parameter {name!r} is unknown. {hint}"


def test_a_long_name_is_shortened() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(TEXT, {"x" * 10_000: 1})
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    "name",
    ["timeout", "priority", "sequence_id", "binary_data_output", "triton_enable_empty_final_response", "X-Request-Id",
     "traceparent", "Authorization", "user-agent", "host", ":path", "stream"],
)  # fmt: skip
def test_what_triton_reserves_or_forwards_is_ignored(name: str) -> None:
    assert parse(TEXT, {name: object()}) == TEXT()


def test_defaults_give_way_to_what_is_sent() -> None:
    defaults = {"top_k": "2", "truncation": "error"}
    assert parse(TEXT, {}, defaults) == TEXT(top_k=2, truncation="error")
    assert parse(TEXT, {"top_k": "all"}, defaults).top_k is None


@pytest.mark.parametrize(
    ("defaults", "sentence"),
    [
        ({"top_k": "0"}, "top_k is '0'"),
        ({"topk": "1"}, "Did you mean top_k"),
        ({"timeout": "1"}, "'timeout' is unknown"),  # ignored in a request, but nobody means it as a default
        ({"x-y": "1"}, "'x-y' is unknown"),
    ],
)
def test_defaults_are_checked_more_strictly(defaults: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parameters.check_defaults(TEXT, defaults)


def test_good_defaults_pass() -> None:
    parameters.check_defaults(TOKENS, {"ignore_labels": "O", "aggregation_strategy": "simple"})


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_no_task_takes_a_name_that_would_be_ignored(task: Any) -> None:
    for name in task.parameters.__dataclass_fields__:
        assert not parameters._is_foreign(name), name
        assert name == name.lower()


def test_a_new_task_declares_its_own() -> None:
    @dataclass(frozen=True, slots=True)
    class Own(Parameters):
        size: str = parameter("s", choice("s", "m"))
        most: int | None = parameter(None, TOP_K)
        least: float | None = parameter(None, PROBABILITY)
        only: tuple[str, ...] = parameter((), NAMES)

    assert parse(Own, {"size": "M", "only": "a,b"}) == Own(size="m", only=("a", "b"))
