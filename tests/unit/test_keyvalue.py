"""KEY=VALUE on the command line."""

import pytest
import typer

from tritext.cli.keyvalue import key_value, request_parameter
from tritext.client import CallOptions, Options

_OPTIONS = set(Options.__annotations__)


@pytest.mark.parametrize(
    ("written", "pair"), [("a=b", ("a", "b")), ("a=", ("a", "")), ("a=b=c", ("a", "b=c")), ("a= b ", ("a", " b "))]
)
def test_the_first_equals_sign_divides(written: str, pair: tuple[str, str]) -> None:
    assert key_value(written, "--plan") == pair


@pytest.mark.parametrize("written", ["", "a", "=", "=b"])
def test_what_is_no_key_with_a_value_is_refused_in_the_options_name(written: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not KEY=VALUE") as raised:
        key_value(written, "--plan")
    assert raised.value.param_hint == "--plan"


@pytest.mark.parametrize("name", Options.__annotations__)
def test_each_parameter_of_a_request_can_be_set(name: str) -> None:
    assert request_parameter(f"{name}=x") == (name, "x")


@pytest.mark.parametrize(
    "name", [*["self", "model", "texts", "result_type", "TOP_K"], *sorted(set(CallOptions.__annotations__) - _OPTIONS)]
)
def test_the_clients_own_arguments_and_unknown_ones_are_refused(name: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"'{name}' is no parameter of a request") as raised:
        request_parameter(f"{name}=1")
    assert raised.value.param_hint == "--set"


@pytest.mark.parametrize(
    ("name", "hint"), [("top-k", "Did you mean top_k?"), ("treshold", "Did you mean threshold?"), ("x", "aggregation")]
)
def test_a_refused_name_is_told_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(typer.BadParameter) as raised:
        request_parameter(f"{name}=1")
    assert hint in raised.value.message
