"""Request parameters: typed, validated in one place, with defaults that a build may change.

A task's parameters are the fields of a frozen dataclass; each is declared once, by `parameter`. Values
may come as their own type or as a string ("0.5"), since clients and protocols differ in what they can send.
"""

import dataclasses
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Literal, TypeVar, get_args

from tritext import contract
from tritext.errors import InvalidInput

Truncation = Literal["error", "right", "left", "window"]
# Which text of a pair is cut, as `tokenizers` calls it.
Cut = Literal["longest_first", "only_first", "only_second"]

# Triton's own request parameters, and headers that a server may be set up to forward as parameters. A header
# name with a hyphen is told from ours by that alone.
RESERVED: Final = frozenset(
    {"binary_data_output", "classification", "id", "priority", "sequence_end", "sequence_id", "sequence_start",
     "timeout", "unary", "stream"}
)  # fmt: skip
HEADERS: Final = frozenset(
    {"accept", "authority", "authorization", "baggage", "connection", "cookie", "date", "expect", "forwarded", "from",
     "host", "origin", "pragma", "priority", "range", "referer", "te", "traceparent", "tracestate", "trailer",
     "upgrade", "via", "warning", "b3"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """How one parameter is read: `parse` raises ValueError or TypeError for what is not `expects`."""

    expects: str
    parse: Callable[[object], Any]


def parameter(default: Any, rule: Rule) -> Any:
    """Declare a field of a parameters dataclass."""
    return dataclasses.field(default=default, metadata={"rule": rule})


def choice(*allowed: str) -> Rule:
    """One of a few words; case does not matter, as in transformers."""

    def parse(value: object) -> str:
        word = value.lower() if isinstance(value, str) else value
        if word not in allowed:
            raise ValueError
        return str(word)

    return Rule("one of " + ", ".join(allowed), parse)


def up_to(most: int) -> Rule:
    """A whole number from 1 to `most`."""

    def parse(value: object) -> int:
        number = _count(value)
        if number > most:
            raise ValueError
        return number

    return Rule(f"a whole number from 1 to {most}", parse)


_side: Final = choice("error", "right", "left")


def _truncation(value: object) -> str:
    if isinstance(value, str) and value.lower() == "window":
        raise InvalidInput(
            "Parameter truncation is 'window', which this model's task does not take: "
            f"{' and '.join(contract.TAKE_WINDOWS)} do. Send error, right or left."
        )
    return str(_side.parse(value))


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    return int(value)


def _count(value: object, least: int = 1) -> int:
    number = _integer(value)
    if number < least:
        raise ValueError
    return number


def _top_k(value: object) -> int | None:
    return None if isinstance(value, str) and value.lower() == "all" else _count(value)


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = float(value)
    if not 0.0 <= number <= 1.0:
        raise ValueError
    return number


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        text = value.strip()
        value = json.loads(text) if text.startswith("[") else [part.strip() for part in text.split(",") if part.strip()]
    if not isinstance(value, Sequence):
        raise TypeError
    return tuple(_string(part) for part in value)


def _some_names(value: object) -> tuple[str, ...]:
    names = _names(value)
    if not names:
        raise ValueError
    return names


def _boolean(value: object) -> bool:
    word = value.lower() if isinstance(value, str) else value
    if word in ("true", "1", True):  # 1 and 1.0 equal True
        return True
    if word in ("false", "0", False):
        return False
    raise ValueError


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # ValueError for a lone surrogate, which no tokenizer takes
    return value


BOOLEAN: Final = Rule("true or false", _boolean)
STRING: Final = Rule("a string", _string)
COUNT: Final = Rule("a whole number of at least 1", _count)
TOP_K: Final = Rule('a whole number of at least 1, or "all"', _top_k)
TOKENS: Final = Rule("a whole number of tokens, 0 or more", partial(_count, least=0))
TRUNCATION: Final = Rule(_side.expects, _truncation)
CUT: Final = choice(*get_args(Cut))
PROBABILITY: Final = Rule("a number from 0 to 1", _probability)
NAMES: Final = Rule('names separated by commas, or a JSON list of strings such as ["O", "MISC"]', _names)
SOME_NAMES: Final = Rule("one or more names separated by commas, or a JSON list of them", _some_names)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What every task takes. ``truncation``: what to do with a text longer than the model's maximum."""

    truncation: Truncation = parameter("right", TRUNCATION)


@dataclass(frozen=True, slots=True)
class WindowParameters(Parameters):
    """``truncation``: also ``window``, for windows that share ``stride`` tokens with their neighbours."""

    truncation: Truncation = parameter("right", choice("error", "right", "left", "window"))
    stride: int | None = parameter(None, TOKENS)


P = TypeVar("P", bound=Parameters)


def parse(kind: type[P], sent: Mapping[str, object], defaults: Mapping[str, object] | None = None) -> P:
    """Read the parameters `sent` with a request into `kind`, over the build's `defaults`.

    InvalidInput names the parameter, what was sent and what is expected.
    """
    rules: dict[str, Rule] = {field.name: field.metadata["rule"] for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for name, value in {**(defaults or {}), **sent}.items():
        if name in rules:
            values[name] = _read(name, value, rules[name])
        elif name.lower().replace("-", "_") in rules or not _is_foreign(name):
            raise InvalidInput(_unknown(name, sorted(rules)))
    return kind(**values)


class Reader(Generic[P]):
    """Reads the parameters of requests into `kind`, over a build's `defaults`; of those that send none, only once."""

    def __init__(self, kind: type[P], defaults: Mapping[str, object]) -> None:
        self._kind, self._defaults = kind, defaults
        self._usual: P | None = None

    def read(self, sent: Mapping[str, object]) -> P:
        """As `parse` does."""
        if sent:
            return parse(self._kind, sent, self._defaults)
        if self._usual is None:
            self._usual = parse(self._kind, {}, self._defaults)
        return self._usual


def check_defaults(kind: type[Parameters], defaults: Mapping[str, object]) -> None:
    """InvalidInput where one of `defaults` is no parameter of `kind`, or has a value that it cannot have."""
    known = sorted(field.name for field in dataclasses.fields(kind))
    for name in sorted(defaults.keys() - known):
        raise InvalidInput(_unknown(name, known))
    parse(kind, {}, defaults)


def _read(name: str, value: object, rule: Rule) -> Any:
    try:
        return rule.parse(value)
    except (ValueError, TypeError, RecursionError):
        raise InvalidInput(f"Parameter {name} is {_shorten(value)}; it must be {rule.expects}.") from None


def _is_foreign(name: str) -> bool:
    lower = name.lower()
    return "-" in name or lower in RESERVED or lower in HEADERS or lower.startswith(("triton_", ":"))


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"This model takes {', '.join(known)}."
    return f"Parameter {_shorten(name)} is unknown. {hint}"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"
