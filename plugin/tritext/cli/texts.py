"""Where `tritext classify` takes its texts from: the command line, lines, JSON Lines or CSV, row by row.

Every reader is lazy, and every complaint names the file and the line.
"""

import csv
import json
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from tritext.client import FLUSH
from tritext.client.batching import Flush
from tritext.errors import InvalidInput


class InputFormat(StrEnum):
    """How a file of texts is written."""

    text = "text"
    jsonl = "jsonl"
    csv = "csv"

    @classmethod
    def of(cls, path: Path) -> "InputFormat":
        """By the name's ending; plain lines where it says nothing."""
        ending = path.suffix.lower().removeprefix(".")
        return cls.jsonl if ending == "ndjson" else cls(ending) if ending in {"jsonl", "csv"} else cls.text


TEXT: Final = "text"
PAIR: Final = "text_pair"

# A pipe that is silent for so long is taken for a live source: what came so far is answered before the rest.
PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """One text (or pair) and the caller's row that it stands in; `line` is where that begins, from 1."""

    text: str
    pair: str | None
    fields: Mapping[str, Any]
    line: int


Rows = Iterator[Row | Flush]
Lines = Iterable[bytes | Flush]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which fields hold the text and the second text; None: "text", and "text_pair" where there is one."""

    text: str | None = None
    pair: str | None = None


def read(lines: Lines, written: InputFormat, name: str, columns: Columns, pair: str | None) -> Rows:
    """The rows in the `lines` of a file called `name`; `pair` is the second text of those that have none."""
    if written is InputFormat.csv:
        return from_csv(lines, name, columns, pair)
    if written is InputFormat.jsonl:
        return from_jsonl(lines, name, columns, pair)
    return from_lines(lines, name, pair)


def from_arguments(texts: list[str], pairs: list[str]) -> Rows:
    """The texts of the command line, with one second text for all or one for each."""
    for number, text in enumerate(texts):
        pair = pairs[number] if len(pairs) > 1 else next(iter(pairs), None)
        yield _line_row(text, pair, number + 1)


def from_lines(lines: Lines, name: str, pair: str | None) -> Rows:
    """One text a line, empty ones too: the result of line N is result N."""
    for item in _decoded(lines, name):
        yield (
            item if isinstance(item, Flush) else _line_row(item[1].removesuffix("\n").removesuffix("\r"), pair, item[0])
        )


def from_jsonl(lines: Lines, name: str, columns: Columns, pair: str | None) -> Rows:
    """One JSON object a line; blank lines are skipped."""
    for item in _decoded(lines, name):
        if isinstance(item, Flush):
            yield item
        elif item[1].strip():
            yield _field_row(_object(item[1], f"{name}, line {item[0]}"), columns, pair, name, item[0])


def from_csv(lines: Lines, name: str, columns: Columns, pair: str | None) -> Rows:
    """CSV with a header; a field may span lines."""
    csv.field_size_limit(sys.maxsize)
    records = _records(_RecordLines(_decoded(lines, name)), name)
    header = next((record[1] for record in records if not isinstance(record, Flush)), None)
    if header is None or len(set(header)) < len(header):
        fault = "is empty" if header is None else "names a column twice"
        raise InvalidInput(f"{name} {fault}. A CSV file begins with one line of column names.")
    _check_column(header, columns.text or TEXT, name)
    if columns.pair is not None:
        _check_column(header, columns.pair, name)
    for record in records:
        if isinstance(record, Flush):
            yield record
            continue
        line, values = record
        if len(values) != len(header):
            raise InvalidInput(f"{name}, line {line} has {len(values)} values, the header names {len(header)} columns.")
        yield _field_row(dict(zip(header, values, strict=True)), columns, pair, name, line)


def file_lines(file: BinaryIO, count: Callable[[int], None]) -> Iterator[bytes]:
    """The lines of `file`; `count` is told each one's bytes."""
    for line in file:
        count(len(line))
        yield line


def live_lines(descriptor: int, count: Callable[[int], None]) -> Iterator[bytes | Flush]:
    """The lines that come through a pipe or are typed, with FLUSH where the sender pauses, be it amid a line."""
    begun = bytearray()  # a line without its end; grows in place, or a long one would be copied with every chunk
    is_due = False  # there are lines that no FLUSH has followed
    while chunk := os.read(descriptor, 1 << 16):
        count(len(chunk))
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            yield b"".join((begun, end, b"\n"))
            begun.clear()
        begun += rest
        is_due = is_due or bool(ends)
        if is_due and not select.select([descriptor], [], [], PAUSE_SECONDS)[0]:
            yield FLUSH
            is_due = False
    if begun:
        yield bytes(begun)


def _line_row(text: str, pair: str | None, line: int) -> Row:
    return Row(text, pair, {TEXT: text} if pair is None else {TEXT: text, PAIR: pair}, line)


def _field_row(fields: Mapping[str, Any], columns: Columns, pair: str | None, name: str, line: int) -> Row:
    text = fields.get(columns.text or TEXT)
    second = fields.get(columns.pair or PAIR)
    second = pair if second is None else second
    wanted = {columns.text or TEXT: text}
    if second is not None or columns.pair is not None:
        wanted[columns.pair or PAIR] = second
    for field, value in wanted.items():
        if not isinstance(value, str):
            fault = f"has no field {field!r}" if field not in fields else f"has no string in {field!r}"
            raise InvalidInput(f"{name}, line {line} {fault}. Name the field that holds it: --column, --pair-column.")
    return Row(str(text), second, fields, line)


def _decoded(lines: Lines, name: str) -> Iterator[tuple[int, str] | Flush]:
    number = 0
    for line in lines:
        if isinstance(line, Flush):
            yield line
            continue
        number += 1
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"{name}, line {number} is not valid UTF-8: byte {error.start} cannot be decoded ({error.reason}). "
                "Convert the file to UTF-8."
            ) from None


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{where} is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{where} is no JSON object. Each line must be one, such as " + '{"text": "…"}.')
    return value


class _Pause(Exception):
    """A live source pauses, and there are records that no FLUSH has followed."""


class _RecordLines:
    """The lines that a `csv.reader` takes. It knows no FLUSH: one stops it with `_Pause`.

    The lines of a record that this cuts are given to it once more. No record is cut twice, since those before it have
    then had their FLUSH.
    """

    def __init__(self, items: Iterator[tuple[int, str] | Flush]) -> None:
        self._items = items
        self._record: list[tuple[int, str]] = []  # lines of the one that is being read
        self._again: deque[tuple[int, str]] = deque()
        self._is_due = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        item = self._again.popleft() if self._again else next(self._items)
        while isinstance(item, Flush):
            if self._is_due:
                self._is_due = False
                self._again.extend(self._record)
                self._record.clear()
                raise _Pause
            item = next(self._items)
        self._record.append(item)
        return item[1]

    @property
    def begin(self) -> int:
        """The line that the record begins on."""
        return self._record[0][0]

    def end(self) -> None:
        """The record is complete; what comes is the next."""
        self._record.clear()
        self._is_due = True


def _records(lines: _RecordLines, name: str) -> Iterator[tuple[int, list[str]] | Flush]:
    """The records that are not blank, each with the line it begins on, and FLUSH at a pause after some."""
    reader = csv.reader(lines, strict=True)
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except _Pause:
            yield FLUSH
            continue
        except csv.Error as error:
            raise InvalidInput(f"{name}, line {lines.begin} is not valid CSV: {error}.") from None
        begin = lines.begin
        lines.end()
        if record:
            yield begin, record


def _check_column(header: list[str], column: str, name: str) -> None:
    if column not in header:
        raise InvalidInput(f"{name} has no column {column!r}. It has {', '.join(header)}; name one with --column.")
