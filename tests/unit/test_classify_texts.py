import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritext.cli.source import Arguments, Document
from tritext.cli.texts import Columns, InputFormat, Row, live_lines, read
from tritext.client import FLUSH
from tritext.errors import InvalidInput


def rows(content: str | bytes, written: str, columns: Columns | None = None, pair: str | None = None) -> list[Any]:
    raw = content.encode() if isinstance(content, str) else content
    return list(read(raw.splitlines(keepends=True), InputFormat(written), "in.x", columns or Columns(), pair))


def texts(found: list[Any]) -> list[str]:
    return [row.text for row in found]


def test_each_line_is_a_text_and_an_empty_one_too() -> None:
    found = rows("one\n\n three \nlast", "text")
    assert [(row.text, row.line) for row in found] == [("one", 1), ("", 2), (" three ", 3), ("last", 4)]
    assert found[0].fields == {"text": "one"}


def test_line_ends_of_windows_and_a_byte_order_mark_are_no_text() -> None:
    lines = [b"\xef\xbb\xbfone\r\n", b"two\r\n"]
    assert texts(list(read(lines, InputFormat.text, "in.x", Columns(), None))) == ["one", "two"]


def test_only_newlines_end_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a\u2028b\x85c\x0bd\ne", encoding="utf-8")
    document = Document(path, InputFormat.text, Columns())
    assert texts(list(document.rows(lambda _: None))) == ["a\u2028b\x85c\x0bd", "e"]


def test_a_line_that_is_not_utf8_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"^in\.x, line 2 is not valid UTF-8: byte 1 "):
        rows(b"good\nb\xff\n", "text")


@given(st.lists(st.text().filter(lambda t: "\n" not in t and not t.endswith("\r")), max_size=20))
def test_lines_come_back_as_they_were(lines: list[str]) -> None:
    raw = [(line + "\n").encode() for line in lines]
    found = texts(list(read(raw, InputFormat.text, "in.x", Columns(), None)))
    assert found == [line.removeprefix("\ufeff") if index == 0 else line for index, line in enumerate(lines)]


def test_json_lines_keep_their_fields() -> None:
    (row,) = rows('{"id": 7, "text": "héllo", "tags": ["a"]}\n', "jsonl")
    assert row == Row("héllo", None, {"id": 7, "text": "héllo", "tags": ["a"]}, 1)


def test_blank_lines_between_json_are_skipped_but_counted() -> None:
    assert [row.line for row in rows('{"text": "a"}\n\n  \n{"text": "b"}', "jsonl")] == [1, 4]


def test_json_pairs() -> None:
    found = rows('{"text": "a", "text_pair": "b"}\n{"text": "c", "text_pair": ""}\n', "jsonl")
    assert [row.pair for row in found] == ["b", ""]
    (row,) = rows('{"q": "a", "a": "b"}\n', "jsonl", Columns("q", "a"))
    assert (row.text, row.pair) == ("a", "b")


def test_one_second_text_for_all() -> None:
    assert [row.pair for row in rows("a\nb\n", "text", pair="p")] == ["p", "p"]
    assert [row.pair for row in rows('{"text": "a"}\n{"text": "b", "text_pair": "q"}', "jsonl", pair="p")] == ["p", "q"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{broken", "line 2 is not valid JSON"),
        ('{"text": "a"} x', "line 2 is not valid JSON: Extra data"),
        ('["a"]', "line 2 is no JSON object"),
        ("[" * 100_000, "line 2 is not valid JSON"),
        ('{"body": "a"}', "line 2 has no field 'text'"),
        ('{"text": 3}', "line 2 has no string in 'text'"),
        ('{"text": null}', "line 2 has no string in 'text'"),
        ('{"text": "a", "text_pair": 3}', "line 2 has no string in 'text_pair'"),
    ],
)
def test_bad_json_is_named_by_its_line(line: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=f"^in.x, {sentence}"):
        rows('{"text": "fine"}\n' + line + "\n", "jsonl")


def test_csv_with_fields_of_several_lines() -> None:
    found = rows('id,text\n1,"two\nlines, ""quoted"""\n2,plain\n', "csv")
    assert [(row.text, row.line) for row in found] == [('two\nlines, "quoted"', 2), ("plain", 4)]
    assert found[1].fields == {"id": "2", "text": "plain"}


def test_csv_columns() -> None:
    found = rows("premise,hypothesis\na,b\n", "csv", Columns("premise", "hypothesis"))
    assert (found[0].text, found[0].pair) == ("a", "b")
    assert rows("text,text_pair\na,\n", "csv")[0].pair == ""


def test_csv_fields_of_a_megabyte() -> None:
    assert len(rows("text\n" + "x" * 1_000_000 + "\n", "csv")[0].text) == 1_000_000


@pytest.mark.parametrize(
    ("content", "columns", "sentence"),
    [
        ("", Columns(), "in.x is empty"),
        ("a,b\n1,2\n", Columns(), "in.x has no column 'text'. It has a, b"),
        ("text\na\n", Columns(pair="other"), "in.x has no column 'other'"),
        ("text,text\na,b\n", Columns(), "in.x names a column twice"),
        ("id,text\n1,a\n2\n", Columns(), "in.x, line 3 has 1 values, the header names 2"),
        ('text\n"a\nb\n', Columns(), "in.x, line 2 is not valid CSV: unexpected end of data"),
        ('text\n"a"b\n', Columns(), "in.x, line 2 is not valid CSV"),
    ],
)
def test_bad_csv_is_named(content: str, columns: Columns, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{sentence}"):
        rows(content, "csv", columns)


def test_a_csv_header_alone_is_no_text() -> None:
    assert rows("text\n", "csv") == []


def test_csv_that_is_not_utf8_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"^in\.x, line 3 is not valid UTF-8"):
        rows(b"text\na\n\xff\n", "csv")


@pytest.mark.parametrize(
    ("name", "written"),
    [("a.jsonl", "jsonl"), ("a.NDJSON", "jsonl"), ("a.CSV", "csv"), ("a.txt", "text"), ("a", "text")],
)
def test_the_name_tells_the_format(name: str, written: str) -> None:
    assert InputFormat.of(Path(name)) == written


def test_arguments() -> None:
    def pairs(given: list[str]) -> list[Any]:
        return [row.pair for row in Arguments(["a", "b"], given).rows(lambda _: None) if isinstance(row, Row)]

    assert pairs([]) == [None, None]
    assert pairs(["p"]) == ["p", "p"]
    assert pairs(["p", "q"]) == ["p", "q"]


def test_reading_is_lazy_and_counts_bytes(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_bytes(b"abc\n" * 100_000)
    counted: list[int] = []
    document = Document(path, InputFormat.text, Columns())
    found: Iterator[Any] = document.rows(counted.append)
    next(found)
    assert counted == [4]
    assert document.size == 400_000
    assert document.is_long


def test_a_pause_in_a_pipe_becomes_a_flush() -> None:
    out, into = os.pipe()
    lines = live_lines(out, lambda _: None)
    os.write(into, b"one\ntwo\nthr")
    assert [next(lines), next(lines), next(lines)] == [b"one\n", b"two\n", FLUSH]
    os.write(into, b"ee")
    os.close(into)
    assert list(lines) == [b"three"]
    os.close(out)


def test_a_busy_pipe_is_read_without_a_flush() -> None:
    out, into = os.pipe()
    expected = [b"x" * (index % 90) + b"\n" for index in range(20_000)]

    def send() -> None:
        with os.fdopen(into, "wb") as pipe:
            pipe.writelines(expected)

    sender = threading.Thread(target=send)
    sender.start()
    found = [line for line in live_lines(out, lambda _: None) if line is not FLUSH]
    sender.join()
    os.close(out)
    assert found == expected
