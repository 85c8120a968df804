"""KEY=VALUE, as options of several commands take it."""

import difflib
from typing import Final

import typer

from tritext.client import Options

_KNOWN: Final = sorted(Options.__annotations__)


def key_value(written: str, option: str) -> tuple[str, str]:
    """The two sides of the first '='; a usage error of `option` where there is none, or nothing before it."""
    key, equals, value = written.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"{written!r} is not KEY=VALUE.", param_hint=option)
    return key, value


def request_parameter(written: str) -> tuple[str, str]:
    """A parameter that --set names and its value, which the server judges.

    A usage error where a request has none of that name: the client has arguments of its own, such as ``retries``.
    """
    key, value = key_value(written, "--set")
    if key not in _KNOWN:
        near = difflib.get_close_matches(key.lower().replace("-", "_"), _KNOWN, n=1, cutoff=0.75)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(_KNOWN)}."
        raise typer.BadParameter(f"{key!r} is no parameter of a request. {hint}", param_hint="--set")
    return key, value
