"""What `tritext classify` writes: JSON Lines and CSV; tables stand in `tritext.cli.tables`.

Both keep the caller's fields. Where one of them has the name of one of ours, ours is called predicted_….
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from tritext.cli.texts import Row
from tritext.errors import InvalidInput
from tritext.results import Result, entries

Emit = Callable[[str], None]

_FEW: Final = ("label", "score")  # what CSV has of a ranked entry


class OutputFormat(StrEnum):
    """How results are written."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"


class Writer(Protocol):
    """Takes rows with their results, in order."""

    def write(self, row: Row, result: Result) -> None:
        """Write one, or keep it for a page."""
        ...

    def flush(self) -> None:
        """Write what was kept."""
        ...


class JsonlWriter:
    """One object a line: the caller's fields, then ours."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit

    def write(self, row: Row, result: Result) -> None:
        """Write one line."""
        answer = _document(result)
        document = {**row.fields, **{_free(name, row.fields): value for name, value in answer.items()}}
        self._emit(json.dumps(document, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Nothing is kept."""


class CsvWriter:
    """The caller's columns, then ours.

    Ranked entries: ``label`` and ``score``, and ``label_2``, ``score_2``, … where there are more: as many as `most`, or
    as the first text got; a text with more is an InvalidInput. `is_bounded`: --top-k can say how many. Places in the
    text: one line for each, and one with our columns empty for a text that has none; `place` is what one of them is.
    A vector: one column, with its numbers as a JSON list.
    """

    def __init__(self, emit: Emit, most: int | None = None, place: Any = None, *, is_bounded: bool = True) -> None:
        self._emit = emit
        self._is_bounded = is_bounded
        self._ours = [field.name for field in fields(place)] if is_dataclass(place) else []
        self._most = most
        self._is_said = most is not None
        self._columns: list[str] = []

    def write(self, row: Row, result: Result) -> None:
        """Write the lines of one text, after the header where it is the first."""
        if not self._columns:
            self._begin(row, result)
        self._check(row)
        fields_of_row = [_cell(row.fields.get(column, "")) for column in self._columns]
        if result.form == "ranked":
            self._check_width(row, len(entries(result)))
            values = [_shown(getattr(entry, name)) for entry in entries(result) for name in _FEW]
            self._put([*fields_of_row, *values, *[""] * (len(_FEW) * (self._most or 1) - len(values))])
        elif result.form == "spans":
            for entry in entries(result):
                self._put([*fields_of_row, *(_shown(getattr(entry, name)) for name in self._ours)])
            if not entries(result):
                self._put([*fields_of_row, *[""] * len(self._ours)])
        else:
            self._put([*fields_of_row, json.dumps(_entry_documents(result))])

    def flush(self) -> None:
        """Nothing is kept."""

    def _begin(self, row: Row, result: Result) -> None:
        self._columns = list(row.fields)
        ours = self._ours
        if result.form == "ranked":
            self._most = self._most or max(1, len(entries(result)))
            ours = [name if n == 1 else f"{name}_{n}" for n in range(1, self._most + 1) for name in _FEW]
        elif result.form == "vector":
            ours = [_name(result)]
        self._put([*self._columns, *(_free(name, row.fields) for name in ours)])

    def _check(self, row: Row) -> None:
        more = [field for field in row.fields if field not in self._columns]
        if more:
            raise InvalidInput(
                f"Line {row.line} has a field {more[0]!r} that the first row has not, so the CSV has no column for it. "
                "Write JSON Lines instead: --json."
            )

    def _check_width(self, row: Row, labels: int) -> None:
        if labels > (self._most or 1):
            as_many = "--top-k allows" if self._is_said else "the first line got"
            say = "Say how many with --top-k, or write" if self._is_bounded and not self._is_said else "Write"
            raise InvalidInput(
                f"Line {row.line} got {labels} labels, and the CSV has columns for {self._most}, as many as {as_many}. "
                f"{say} JSON Lines instead: --json."
            )

    def _put(self, values: Iterable[object]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        self._emit(line.getvalue())


def _document(result: Result) -> dict[str, Any]:
    return {_name(result): _entry_documents(result), "token_count": result.token_count, "truncated": result.truncated}


def _name(result: Result) -> str:
    """What the result calls its entries."""
    return fields(result)[0].name  # type: ignore[arg-type]


def _entry_documents(result: Result) -> list[Any]:
    return [
        {field.name: _shown(getattr(entry, field.name)) for field in fields(entry)}
        if is_dataclass(entry)
        else _shown(entry)
        for entry in entries(result)
    ]


def _shown(value: Any) -> Any:
    return _short(value) if isinstance(value, float) else value


def _short(score: float) -> float:
    """The seven digits that FP32 holds: 0.9 and not 0.8999999761581421."""
    return float(f"{score:.7g}")


def _free(name: str, fields: Mapping[str, object]) -> str:
    return f"predicted_{name}" if name in fields else name


def _cell(value: object) -> object:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
