import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritext.cli.source import Arguments, Document
from tritext.cli.texts import PAUSE_SECONDS, Columns, InputFormat, Row, live_lines, read
from tritext.client import FLUSH
from tritext.client.batching import Flush
from tritext.errors import InvalidInput

MIB = 2**20


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


def test_a_pause_amid_a_line_flushes_those_before_it_and_once() -> None:
    out, into = os.pipe()
    lines = live_lines(out, lambda _: None)
    os.write(into, b"one\n")
    assert next(lines) == b"one\n"
    os.write(into, b"par")  # there before it looks whether the sender pauses
    giving_up = threading.Timer(100 * PAUSE_SECONDS, os.close, [into])  # where no FLUSH comes
    giving_up.start()
    assert next(lines) == FLUSH
    giving_up.cancel()
    os.write(into, b"ti")
    rest = threading.Timer(4 * PAUSE_SECONDS, os.write, [into, b"al\n"])
    rest.start()
    assert next(lines) == b"partial\n"
    rest.join()
    os.close(into)
    assert FLUSH not in lines
    os.close(out)


def seconds_for_a_line_of(size: int, monkeypatch: pytest.MonkeyPatch) -> float:
    chunks = iter([*[b"x" * 2**16] * (size // 2**16), b"\n", b""])
    with monkeypatch.context() as patched:
        patched.setattr("tritext.cli.texts.os.read", lambda *_: next(chunks))
        patched.setattr("tritext.cli.texts.select.select", lambda *_: ([0], [], []))
        began = time.thread_time()
        (line,) = live_lines(0, lambda _: None)
        took = time.thread_time() - began
    assert len(line) == size + 1
    return took


def test_a_long_line_is_not_copied_with_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    took = [seconds_for_a_line_of(size, monkeypatch) for size in (2 * MIB, 32 * MIB)]
    # 16 times as much to read; copied with every chunk it would take 256 times as long, seconds.
    assert took[1] < 64 * took[0] + 0.5, took


def records(*lines: bytes | Flush) -> list[Any]:
    """The texts of a CSV file with the one column `text`, and the pauses."""
    found = read([b"text\n", *lines], InputFormat.csv, "in.x", Columns(), None)
    return [(row.text, row.line) if isinstance(row, Row) else row for row in found]


def test_a_pause_between_csv_records_is_passed_on_before_more_is_read() -> None:
    def lines() -> Iterator[bytes | Flush]:
        yield from (b"text\n", b"a\n", FLUSH)
        raise AssertionError

    found = read(lines(), InputFormat.csv, "in.x", Columns(), None)
    first = next(found)
    assert isinstance(first, Row)
    assert (first.text, next(found)) == ("a", FLUSH)


def test_a_pause_amid_a_csv_record_is_passed_on_and_the_record_is_whole() -> None:
    assert records(b"a\n", b'"b\n', FLUSH, b"c\n", FLUSH, b'd"\n', FLUSH, b"e\n") == [
        ("a", 2), FLUSH, ("b\nc\nd", 3), FLUSH, ("e", 6)
    ]  # fmt: skip


def test_a_pause_with_no_csv_record_before_it_is_none() -> None:
    assert records(b'"a\n', FLUSH, b'b"\n', FLUSH, FLUSH, b"\n", b"c\n")[-3:] == [("a\nb", 2), FLUSH, ("c", 5)]


def test_bad_csv_after_a_pause_is_named_by_its_line() -> None:
    with pytest.raises(InvalidInput, match=r"^in\.x, line 3 is not valid CSV: unexpected end"):
        records(b"a\n", b'"b\n', FLUSH, b"c\n")


@given(st.lists(st.sampled_from([b"a\n", b'"b\n', b'c"\n', b'"d"\n', b"\n", FLUSH])))
def test_pauses_change_no_csv_record(lines: list[bytes | Flush]) -> None:
    def outcome(given: list[bytes | Flush]) -> Any:
        try:
            return [found for found in records(*given) if found is not FLUSH]
        except InvalidInput as error:
            return str(error)

    assert outcome(lines) == outcome([line for line in lines if line is not FLUSH])


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
