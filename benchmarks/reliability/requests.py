"""Generated requests: texts over all of Unicode, parameters of every kind, and requests with one known fault each.

Strategies for hypothesis, so that a failure is shrunk to a small request. A request is protobuf, built by hand, because
a client would not send what is wrong with some of them.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from hypothesis import strategies as st
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest

from tritext import contract

MOST_ROWS: Final = 256
_ASTRAL: Final = st.characters(min_codepoint=0x10000)
_ODD: Final = st.sampled_from(
    ["\0", "\x1b[2J", "\u200f", "\u202e", "\ufeff", "e\u0301\u0327", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
     "\u0378", "\U000e0fff", "\ufdfd", "\ufffe", "ß", "İ", "\u1e9e", "中", "\u0e33", "\r\n", "\u2028", "[MASK]",
     "[SEP]", "##s", "\u3000", "½", "ﬃ", "\u0488"]
)  # fmt: skip
_WORDS: Final = st.sampled_from(["free", "offer", "Daniel", "meeting", "http://x.y/z?q=1", "a@b.com", "4821", "don't"])


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what it must get: None where it is good, else words of the sentence that refuses it."""

    request: ModelInferRequest
    refused: str | None = None

    @property
    def rows(self) -> int:
        """How many texts it has."""
        return int(self.request.inputs[0].shape[0])


def texts(longest: int) -> st.SearchStrategy[str]:
    """From nothing to some `longest` characters; every code point that UTF-8 has, odd ones and words often."""
    letters = st.one_of(st.characters(codec="utf-8"), _ASTRAL)
    parts = st.one_of(st.text(letters, max_size=12), _ODD, _WORDS)
    usual = st.lists(parts, max_size=5).map(" ".join)
    glued = st.lists(parts, max_size=7).map("".join)
    many = st.tuples(parts, st.integers(1, 60)).map(lambda each: each[0] * each[1])
    long = st.tuples(parts, st.integers(1, longest)).map(lambda each: (each[0] * each[1])[:longest])
    return st.one_of(usual, usual, usual, usual, glued, glued, glued, many, many, long)


def good(model: str, task: str, longest: int = 2000, rows: int = 24) -> st.SearchStrategy[Asked]:
    """Requests that must be answered. Of text classification the logits are asked for, of all labels."""
    fixed = {"function_to_apply": "none", "top_k": "all"} if task == contract.TEXT_CLASSIFICATION else {}
    free: dict[str, st.SearchStrategy[Any]] = {"truncation": st.sampled_from(["right", "left"])}
    if task == contract.TOKEN_CLASSIFICATION:
        free["aggregation_strategy"] = st.sampled_from(["none", "simple", "first", "average", "max"])
        free["threshold"] = st.sampled_from([0, 0.0, "0"])
    chosen = st.fixed_dictionaries({}, optional=free).map(lambda some: fixed | some)
    few = st.lists(texts(longest), min_size=1, max_size=8)
    many = st.tuples(few, st.integers(0, rows), st.integers(0, 2**32)).map(lambda drawn: _mixed(*drawn))
    return st.tuples(many, chosen).map(lambda drawn: Asked(request(model, *drawn)))


def _mixed(few: list[str], more: int, seed: int) -> list[str]:
    """The texts of `few`, and so many more, each made of two of them: drawing every one would take most of the time."""
    random = Random(seed)  # noqa: S311 - nothing secret
    return few + [f"{random.choice(few)} {random.choice(few)[:100]}" for _ in range(more)]


def bad(model: str) -> st.SearchStrategy[Asked]:
    """Requests with one fault each, and what the sentence must name."""
    some = st.lists(texts(200), min_size=1, max_size=6)
    return st.tuples(some, st.sampled_from(_FAULTS), st.integers(0, 10**6)).map(lambda drawn: _spoilt(model, *drawn))


def request(model: str, rows: Sequence[str | bytes], parameters: dict[str, Any] | None = None) -> ModelInferRequest:
    """TEXT [N, 1] and parameters of the types that they have."""
    asked = ModelInferRequest(model_name=model)
    _tensor(asked, contract.TEXT.name, [len(rows), 1], packed(rows))
    for name, value in (parameters or {}).items():
        asked.parameters[name].CopyFrom(_parameter(value))
    return asked


def packed(rows: Sequence[str | bytes]) -> bytes:
    """The texts as Triton's BYTES tensors have them: four bytes of length, little endian, before each."""
    encoded = [row.encode() if isinstance(row, str) else row for row in rows]
    return b"".join(struct.pack("<I", len(each)) + each for each in encoded)


def _tensor(asked: ModelInferRequest, name: str, shape: Sequence[int], raw: bytes, datatype: str = "BYTES") -> None:
    asked.inputs.add(name=name, datatype=datatype, shape=shape)
    asked.raw_input_contents.append(raw)


def _parameter(value: Any) -> InferParameter:
    if isinstance(value, bool):
        return InferParameter(bool_param=value)
    if isinstance(value, int):
        return InferParameter(int64_param=value)
    return InferParameter(double_param=value) if isinstance(value, float) else InferParameter(string_param=str(value))


# A fault: changes a good request of some rows, given a number to choose by, and gives the words that must be said.
Fault = Callable[[ModelInferRequest, list[str], int], str]


def _spoilt(model: str, rows: list[str], fault: Fault, number: int) -> Asked:
    asked = request(model, rows)
    return Asked(asked, fault(asked, rows, number))


def _wrong_parameter(name: str, *values: Any) -> Fault:
    def spoil(asked: ModelInferRequest, _: list[str], number: int) -> str:
        asked.parameters[name].CopyFrom(_parameter(values[number % len(values)]))
        return name

    return spoil


def _not_utf8(asked: ModelInferRequest, rows: list[str], number: int) -> str:
    at = number % len(rows)
    broken = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"ok \xe2\x82"][number % 5]
    asked.raw_input_contents[0] = packed([broken if index == at else row for index, row in enumerate(rows)])
    return f"TEXT[{at}] is not valid UTF-8"


def _too_long(asked: ModelInferRequest, rows: list[str], number: int) -> str:
    at = number % len(rows)
    asked.raw_input_contents[0] = packed(["a " * 3000 if index == at else "a" for index in range(len(rows))])
    asked.parameters["truncation"].string_param = "error"
    return f"TEXT[{at}] has "


def _shape(*shape: int) -> Fault:
    def spoil(asked: ModelInferRequest, _: list[str], __: int) -> str:
        asked.inputs[0].shape[:] = shape
        return contract.TEXT.name

    return spoil


def _empty(asked: ModelInferRequest, _: list[str], __: int) -> str:
    # With one text behind it Triton takes [0, 1] for [1, 1].
    asked.inputs[0].shape[:] = [0, 1]
    asked.raw_input_contents[0] = b""
    return contract.TEXT.name


def _too_many_rows(asked: ModelInferRequest, _: list[str], number: int) -> str:
    count = MOST_ROWS + 1 + number % 1000
    asked.inputs[0].shape[:] = [count, 1]
    asked.raw_input_contents[0] = packed(["a"] * count)
    return "batch-size must be <= "


def _datatype(asked: ModelInferRequest, _: list[str], number: int) -> str:
    asked.inputs[0].datatype = ["INT32", "FP32", "BOOL", "WAT", "", "bytes"][number % 6]
    return contract.TEXT.name


def _no_text(asked: ModelInferRequest, _: list[str], __: int) -> str:
    asked.inputs[0].name = "TEXTS"
    return "TEXT"


def _lying_prefix(asked: ModelInferRequest, rows: list[str], number: int) -> str:
    lie = [2**32 - 1, 2**31, 1 << 20, len(packed(rows)) + 1][number % 4]
    asked.raw_input_contents[0] = struct.pack("<I", lie) + packed(rows)[4:]
    return contract.TEXT.name


def _cut(asked: ModelInferRequest, rows: list[str], number: int) -> str:
    whole = packed(rows)
    asked.raw_input_contents[0] = whole[: number % len(whole)]
    return contract.TEXT.name


def _more_than_the_shape(asked: ModelInferRequest, rows: list[str], _: int) -> str:
    asked.raw_input_contents[0] = packed([*rows, "one more"])
    return contract.TEXT.name


_FAULTS: Final[Sequence[Fault]] = (
    _wrong_parameter("top_q", 1, "x", 0.5, True),
    _wrong_parameter("truncation", "both", "", 1, 0.5, True, "\0", "ERRORS"),
    _wrong_parameter("threshold", 1.5, -0.1, math.nan, math.inf, "nan", "much", True, "1e999"),
    _not_utf8, _too_long, _too_many_rows, _datatype, _no_text, _lying_prefix, _cut, _more_than_the_shape,
    _empty, _shape(1), _shape(), _shape(-1, 1), _shape(1, 2), _shape(1, 1, 1), _shape(2**62, 4),
    _shape(2**32, 2**32), _shape(2**63 - 1, 2**63 - 1), _shape(3, -1),
)  # fmt: skip
