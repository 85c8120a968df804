"""Requests and answers as protobuf. Pure: no connection, no clock.

Written over the bytes of the tensors and not over numpy: encoding 32 texts takes 7 µs where `tritonclient`'s
`InferInput` takes 35. Source of the layout: Triton's binary tensor data extension (BYTES: each element after its
length in four bytes, little-endian).
"""

import json
import struct
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Final

from tritext import contract
from tritext.client.batching import Batch
from tritext.client.options import Scalar
from tritext.client.results import Classification, Entity, LabelScore, ModelInfo, Result, TokenClassification
from tritext.client.wire import messages
from tritext.errors import InvalidInput

_LENGTH: Final = struct.Struct("<I")
_FIELD: Final = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


class Malformed(ValueError):
    """An answer that does not follow the contract."""


class RequestEncoder:
    """Makes the requests of one call: the same model and parameters, batch after batch."""

    def __init__(self, model: str, parameters: Mapping[str, Scalar], ids: str = "") -> None:
        """With `ids`, each request gets an id that begins so, by which the server's log names it."""
        self._ids = ids
        self._count = count()
        self._make = messages().ModelInferRequest
        self._template = self._make(model_name=model)
        for name, value in parameters.items():
            setattr(self._template.parameters[name], _FIELD[type(value)], value)

    def encode(self, batch: Batch, timeout: float | None = None) -> Any:
        """A ModelInferRequest with TEXT [N, 1] and, for pairs, TEXT_PAIR [N, 1].

        `timeout`: seconds that it has, Triton's own parameter; with it goes an id, for the steps to know it by.
        """
        request = self._make()
        request.CopyFrom(self._template)
        if self._ids:
            request.id = f"{self._ids}-{next(self._count)}"
        if timeout is not None:
            request.parameters["timeout"].int64_param = max(1, int(timeout * 1e6))
        _attach(request, contract.TEXT.name, batch.texts)
        if batch.pairs is not None:
            _attach(request, contract.TEXT_PAIR.name, batch.pairs)
        return request


def _attach(request: Any, name: str, values: Sequence[bytes]) -> None:
    request.inputs.add(name=name, datatype="BYTES", shape=(len(values), 1))
    length = _LENGTH.pack
    request.raw_input_contents.append(b"".join([part for value in values for part in (length(len(value)), value)]))


def decode(response: Any, rows: int) -> list[Result]:
    """The results in a ModelInferResponse to a request of `rows` items; Malformed where it breaks the contract."""
    try:
        raw = {
            output.name: content for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        results = _token_results(raw, rows) if contract.WORD.name in raw else _text_results(raw, rows)
    except KeyError as error:
        raise Malformed(f"there is no {error.args[0]} in it") from None
    except (struct.error, ValueError) as error:
        raise Malformed(str(error)) from None
    return results


def _text_results(raw: Mapping[str, bytes], rows: int) -> list[Result]:
    labels, scores = _strings(raw[contract.LABEL.name]), _numbers(raw[contract.SCORE.name], "f")
    pairs = [LabelScore(label, score) for label, score in zip(labels, scores, strict=True)]
    return [
        Classification(tuple(pairs[start:end]), token_count, truncated)
        for start, end, token_count, truncated in _rows(raw, rows, len(pairs))
    ]


def _token_results(raw: Mapping[str, bytes], rows: int) -> list[Result]:
    entities = [
        Entity(*fields)
        for fields in zip(
            _strings(raw[contract.LABEL.name]),
            _numbers(raw[contract.SCORE.name], "f"),
            _strings(raw[contract.WORD.name]),
            _numbers(raw[contract.START.name], "i"),
            _numbers(raw[contract.END.name], "i"),
            strict=True,
        )
    ]
    return [
        TokenClassification(tuple(entities[start:end]), token_count, truncated)
        for start, end, token_count, truncated in _rows(raw, rows, len(entities))
    ]


def _rows(raw: Mapping[str, bytes], rows: int, size: int) -> Any:
    """Per row: where its entries start and end among `size` (rows x K, padded), its token count, if truncated."""
    counts = _numbers(raw[contract.COUNT.name], "i")
    tokens = _numbers(raw[contract.TOKEN_COUNT.name], "i")
    truncated = _numbers(raw[contract.TRUNCATED.name], "?")
    width, odd = divmod(size, rows)
    if odd or len(counts) != rows or not all(0 <= count <= width for count in counts):
        raise Malformed(f"{size} entries and counts {counts[:8]} do not fit {rows} texts")
    starts = range(0, size, width) if width else [0] * rows
    ends = [start + count for start, count in zip(starts, counts, strict=True)]
    return zip(starts, ends, tokens, truncated, strict=True)


def _numbers(raw: bytes, kind: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{len(raw) // struct.calcsize(kind)}{kind}", raw)


def _strings(raw: bytes) -> list[str]:
    values = []
    offset, size, length_at = 0, len(raw), _LENGTH.unpack_from
    while offset < size:
        start = offset + 4
        offset = start + length_at(raw, offset)[0]
        values.append(raw[start:offset].decode())
    if offset != size:
        raise Malformed("a string is cut short")
    return values


def model_info(response: Any, address: str) -> ModelInfo:
    """What a ModelConfigResponse says; InvalidInput where the model is none that tritext built for clients."""
    config = response.config
    values = {name: parameter.string_value for name, parameter in config.parameters.items()}
    if contract.PARAM_TASK not in values:
        raise InvalidInput(
            f"Model {config.name} at {address} is not a model made by `tritext build`, or only a step of one: its "
            f"configuration has no parameter {contract.PARAM_TASK!r}. Name the model as it was named in the build."
        )
    try:
        return ModelInfo(
            name=config.name,
            task=values[contract.PARAM_TASK],
            labels=tuple(json.loads(values[contract.PARAM_LABELS])),
            max_length=int(values[contract.PARAM_MAX_LENGTH]),
            max_batch_size=config.max_batch_size,
            build=values[contract.PARAM_BUILD],
        )
    except KeyError as error:
        raise Malformed(f"its configuration has no parameter {error.args[0]!r}") from None
    except ValueError as error:
        raise Malformed(f"its configuration cannot be read: {error}") from None
