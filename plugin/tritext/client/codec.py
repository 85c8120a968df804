"""Requests and answers as protobuf. Pure: no connection, no clock.

Written over the bytes of the tensors and not over numpy: encoding 32 texts takes 7 µs where `tritonclient`'s
`InferInput` takes 35. Source of the layout: Triton's binary tensor data extension (BYTES: each element after its
length in four bytes, little-endian).
"""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from tritext import contract
from tritext.client.batching import LENGTH_BYTES, Batch
from tritext.client.options import Scalar
from tritext.client.results import ModelInfo, Result
from tritext.client.wire import messages
from tritext.errors import InvalidInput

if TYPE_CHECKING:  # whoever imports the client does not pay for numpy
    from tritext.tasks.base import Task

_LENGTH: Final = struct.Struct("<I")
_FIELD: Final = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}


class Malformed(ValueError):
    """An answer that does not follow the contract."""


class RequestEncoder:
    """Makes the requests of one call: the same model and parameters, batch after batch.

    `names` are those of the tensors of an item's first and second text. `shared` are tensors that are the same for
    all items, by name, each with its row. With `ids`, each request gets an id that begins so, by which the server's log
    names it.
    """

    def __init__(
        self, model: str, parameters: Mapping[str, Scalar],
        names: tuple[str, str] = (contract.TEXT.name, contract.TEXT_PAIR.name),
        shared: Mapping[str, Sequence[str]] | None = None, *, ids: str = "",
    ) -> None:  # fmt: skip
        self._ids = ids
        self._count = count()
        self._make = messages().ModelInferRequest
        self._template = self._make(model_name=model)
        self._names = names
        self._shared = {name: [value.encode() for value in row] for name, row in (shared or {}).items()}
        for name, value in parameters.items():
            setattr(self._template.parameters[name], _FIELD[type(value)], value)

    @property
    def width(self) -> int:
        """The rows that a server makes of each item: one for each of what is shared."""
        return max(map(len, self._shared.values()), default=1)

    @property
    def shared_bytes(self) -> int:
        """What each item brings along of what is shared."""
        return sum(LENGTH_BYTES + len(value) for row in self._shared.values() for value in row)

    def encode(self, batch: Batch, timeout: float | None = None) -> Any:
        """A ModelInferRequest with the texts [N, 1], for pairs the second ones too, and what is shared [N, C].

        `timeout`: seconds that it has, Triton's own parameter; with it goes an id, for the steps to know it by.
        """
        request = self._make()
        request.CopyFrom(self._template)
        if self._ids:
            request.id = f"{self._ids}-{next(self._count)}"
        if timeout is not None:
            request.parameters["timeout"].int64_param = max(1, int(timeout * 1e6))
        _attach(request, self._names[0], batch.texts)
        if batch.pairs is not None:
            _attach(request, self._names[1], batch.pairs)
        for name, row in self._shared.items():
            _attach(request, name, row * len(batch.texts), len(row))
        return request


def _attach(request: Any, name: str, values: Sequence[bytes], width: int = 1) -> None:
    request.inputs.add(name=name, datatype="BYTES", shape=(len(values) // width, width))
    length = _LENGTH.pack
    request.raw_input_contents.append(b"".join([part for value in values for part in (length(len(value)), value)]))


def decode(response: Any, rows: int, task: "Task") -> list[Result]:
    """The results of `task` in a ModelInferResponse for `rows` items; Malformed where it breaks the contract.

    Each output but COUNT is a column, [rows, K]; what stands beside each other in them is an entry. An output too many
    breaks it too: the entities of a model that is built anew for them would pass for labels.
    """
    try:
        raw = {
            output.name: content for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        if odd := raw.keys() - {tensor.name for tensor in (*task.outputs, *contract.REPORT)}:
            raise Malformed(f"there is {', '.join(sorted(odd))} in it, which is nothing of {task.name}")
        columns = [_READ[t.datatype](raw[t.name]) for t in task.outputs if t != contract.COUNT]
        entries = [task.entry(*fields) for fields in zip(*columns, strict=True)]
        return [
            task.result(tuple(entries[start:end]), token_count, truncated)
            for start, end, token_count, truncated in _rows(raw, rows, len(entries))
        ]
    except KeyError as error:
        raise Malformed(f"there is no {error.args[0]} in it") from None
    except (struct.error, ValueError) as error:
        raise Malformed(str(error)) from None


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


_READ: Final[Mapping[str, Callable[[bytes], Sequence[Any]]]] = {
    "BYTES": _strings,
    "FP32": partial(_numbers, kind="f"),
    "INT32": partial(_numbers, kind="i"),
}


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
