import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tritext.cli.classify import _writer
from tritext.cli.output import CsvWriter, JsonlWriter, OutputFormat
from tritext.cli.stream import WIDTH, Target
from tritext.cli.tables import PAGE, TableWriter, bar, printable
from tritext.cli.texts import Row
from tritext.client import (
    Answer,
    Answers,
    Classification,
    Entity,
    Fill,
    FillMask,
    LabelScore,
    ModelInfo,
    Ranked,
    Ranking,
    TokenClassification,
)
from tritext.errors import InvalidInput

INFO = ModelInfo("spam", "text-classification", ("ham", "spam"), 128, 64, "3f9c01aa")
SPAM = Classification((LabelScore("spam", 0.8999999761581421), LabelScore("ham", 1e-9)), 5, truncated=False)
ONE = Classification((LabelScore("spam", 0.8999999761581421),), 5, truncated=False)
NONE = Classification((), 900, truncated=True)
ADA = TokenClassification((Entity("PER", 0.5, "Ada", 0, 3), Entity("LOC", 0.25, "Rome", 7, 11)), 6, truncated=False)
NOBODY = TokenClassification((), 3, truncated=False)


def row(text: str, line: int = 1, pair: str | None = None, /, **fields: Any) -> Row:
    return Row(text, pair, fields or {"text": text}, line)


def jsonl(*pairs: tuple[Row, Any]) -> list[Any]:
    out: list[str] = []
    writer = JsonlWriter(out.append)
    for each in pairs:
        writer.write(*each)
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in out)
    return [json.loads(line) for line in out]


def test_json_keeps_the_callers_row() -> None:
    assert jsonl((row("a\nb", text="a\nb", id=7), SPAM), (row("Ada in Rome"), ADA)) == [
        {
            "text": "a\nb",
            "id": 7,
            "labels": [{"label": "spam", "score": 0.9}, {"label": "ham", "score": 1e-9}],
            "token_count": 5,
            "truncated": False,
        },
        {
            "text": "Ada in Rome",
            "entities": [
                {"label": "PER", "score": 0.5, "word": "Ada", "start": 0, "end": 3},
                {"label": "LOC", "score": 0.25, "word": "Rome", "start": 7, "end": 11},
            ],
            "token_count": 6,
            "truncated": False,
        },
    ]


def test_json_does_not_overwrite_a_field_of_the_callers() -> None:
    (document,) = jsonl((row("a", text="a", labels=["gold"]), NONE))
    assert document["labels"] == ["gold"]
    assert document["predicted_labels"] == []


def table(*pairs: tuple[Row, Any], most: int | None = None) -> list[list[str]]:
    out: list[str] = []
    writer = CsvWriter(out.append, most, Entity)
    for each in pairs:
        writer.write(*each)
    return list(csv.reader(io.StringIO("".join(out), newline="")))


def test_csv_adds_columns() -> None:
    assert table((row("a", id="1", text='x, "y"\nz'), ONE), (row("b", id="2", text="b"), NONE), most=1) == [
        ["id", "text", "label", "score"],
        ["1", 'x, "y"\nz', "spam", "0.9"],
        ["2", "b", "", ""],
    ]


def test_csv_has_columns_for_as_many_labels_as_asked_or_as_the_first_text_got() -> None:
    wide = [["text", "label", "score", "label_2", "score_2"], ["a", "spam", "0.9", "ham", "1e-09"], ["b", *[""] * 4]]
    assert table((row("a"), SPAM), (row("b"), NONE)) == wide
    assert table((row("b"), NONE), (row("a"), SPAM), most=2) == [wide[0], wide[2], wide[1]]


def test_csv_drops_no_label_that_the_first_text_did_not_get() -> None:
    with pytest.raises(InvalidInput, match=r"Line 1 got 2 labels.*columns for 1.*Say how many with --top-k"):
        table((row("b"), NONE), (row("a"), SPAM))
    with pytest.raises(InvalidInput, match=r"Line 1 got 2 labels.*columns for 1.*allows. Write JSON Lines"):
        table((row("a"), SPAM), most=1)


def fills(masks: int) -> FillMask:
    return FillMask(tuple(Fill("the", 0.9, "the", 1, mask) for mask in range(masks)), 5, truncated=False)


def written(task: str, labels: tuple[str, ...], top_k: str | None, *results: Any) -> list[str]:
    """The header of what --output-format csv writes of these results; each keeps all it has, or this raises."""
    out: list[str] = []
    target = Target(None)
    target.emit = out.append  # type: ignore[method-assign]
    writer = _writer(OutputFormat.csv, target, ModelInfo("m", task, labels, 128, 64, "3f9c01aa"), top_k)
    for line, result in enumerate(results, 1):
        writer.write(row("a", line), result)
    header, *rows = csv.reader(io.StringIO("".join(out), newline=""))
    assert {len(each) for each in rows} == {len(header)}
    return header


RANKING = Ranking((Ranked(2, 0.9), Ranked(0, 0.5), Ranked(1, 0.1)), 5, truncated=False)
ANSWERS = Answers((Answer("Rome", 0.9, 0, 4), Answer("in", 0.1, 5, 7)), 5, truncated=False)
NO_ANSWER = Answers((), 5, truncated=False)


@pytest.mark.parametrize(
    ("task", "labels", "top_k", "results", "columns"),
    [
        ("text-classification", ("ham", "spam"), "9", (ONE, SPAM), 2),
        ("text-classification", ("ham", "spam"), "all", (NONE, SPAM), 2),
        ("text-classification", ("ham", "spam", "eggs"), "2", (ONE, SPAM), 2),
        ("text-classification", ("ham", "spam"), None, (SPAM, ONE), 2),
        ("question-answering", (), "2", (NO_ANSWER, ANSWERS), 2),
        ("reranking", ("LABEL_0",), "3", (RANKING,), 3),
        ("reranking", ("LABEL_0",), "all", (RANKING,), 3),
        ("reranking", ("LABEL_0",), None, (RANKING,), 3),
        ("fill-mask", (), "1", (fills(2), fills(1)), 2),
    ],
)
def test_csv_has_columns_for_what_the_task_counts(
    task: str, labels: tuple[str, ...], top_k: str | None, results: tuple[Any, ...], columns: int
) -> None:
    assert len(written(task, labels, top_k, *results)) == 1 + 2 * columns


def test_csv_of_a_text_with_more_masks_than_the_first_is_refused_without_bad_advice() -> None:
    with pytest.raises(InvalidInput, match=r"^Line 2 got 2 labels.*for 1, as many as the first line got. Write JSON"):
        written("fill-mask", (), "1", fills(1), fills(2))


@pytest.mark.parametrize(
    ("said", "width"), [("66", 66), ("abc", WIDTH), ("", WIDTH), ("0", WIDTH), ("-5", WIDTH), ("8x", WIDTH)]
)
def test_the_width_of_a_table_in_a_pipe(said: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", said)
    assert Target(None).console().width == width


def test_csv_does_not_name_a_column_twice() -> None:
    assert table((row("a", text="a", label="gold"), ONE))[0] == [
        "text", "label", "predicted_label", "score"
    ]  # fmt: skip


def test_csv_has_a_line_for_each_entity_and_one_for_none() -> None:
    assert table((row("Ada in Rome"), ADA), (row("x"), NOBODY)) == [
        ["text", "label", "score", "word", "start", "end"],
        ["Ada in Rome", "PER", "0.5", "Ada", "0", "3"],
        ["Ada in Rome", "LOC", "0.25", "Rome", "7", "11"],
        ["x", "", "", "", "", ""],
    ]


def test_csv_of_json_lines() -> None:
    assert table((row("a", text="a", n=3), ONE), (row("b", text="b"), ONE))[1:] == [
        ["a", "3", "spam", "0.9"], ["b", "", "spam", "0.9"]
    ]  # fmt: skip
    with pytest.raises(InvalidInput, match="Line 2 has a field 'n' that the first row has not"):
        table((row("a"), SPAM), (row("b", 2, text="b", n=3), SPAM))


def shown(*pairs: tuple[Row, Any], width: int = 80, color: str | None = None, info: ModelInfo = INFO) -> str:
    out: list[str] = []
    terminal = color is not None
    console = Console(file=io.StringIO(), width=width, color_system=color, force_terminal=terminal)  # type: ignore[arg-type]
    writer = TableWriter(out.append, console, info)
    for each in pairs:
        writer.write(*each)
    writer.flush()
    return "".join(out)


def test_a_table_of_labels_in_a_pipe() -> None:
    answer = shown((row("Win a prize"), SPAM), (row("x" * 300, 2), NONE), (row("a", 3, "b"), SPAM), width=78)
    assert answer == (
        "        text                                      label     score\n"
        "──────────────────────────────────────────────────────────────────────────────\n"
        "    1   Win a prize                               spam      0.900   █████████\n"
        "                                                  ham       0.000\n"
        "    2   xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx   none\n"
        "        xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…\n"
        "        (cut, 900 tokens)\n"
        "    3   a                                         spam      0.900   █████████\n"
        "        ↳ b                                       ham       0.000\n"
    )


def test_entities_in_a_pipe() -> None:
    assert shown((row("Ada in Rome, and then"), ADA), (row("nobody", 2), NOBODY)) == (
        "    1  [Ada](PER) in [Rome](LOC), and then\n"
        "       PER    Ada    0-3    0.500  █████\n"
        "       LOC    Rome  7-11    0.250  ██▌\n"
        "\n"
        "    2  nobody\n"
        "       nothing found\n"
        "\n"
    )


def test_on_a_terminal_labels_have_colours_and_entities_are_marked_in_the_text() -> None:
    assert "\x1b[1;35mspam\x1b[0m" in shown((row("Win a prize"), SPAM), color="standard")
    info = ModelInfo("ner", "token-classification", ("O", "B-PER", "I-PER", "B-LOC"), 128, 64, "3f9c01aa")
    answer = shown((row("Ada in Rome, and then"), ADA), color="standard", info=info)
    assert "\x1b[30;46mAda\x1b[0m\x1b[1;36m PER\x1b[0m in \x1b[30;45mRome\x1b[0m" in answer


def test_without_colour_entities_are_marked_with_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "[Ada](PER) in" in shown((row("Ada in Rome, and then"), ADA), color="standard")


def test_columns_are_the_same_on_every_page_and_the_head_stands_once() -> None:
    answer = shown(*((row(f"text {index}", index), SPAM) for index in range(3 * PAGE + 1)))
    lines = answer.splitlines()
    assert sum("score" in line for line in lines) == 1
    assert len({line.index("spam") for line in lines if "spam" in line}) == 1
    assert sum("text " in line for line in lines) == 3 * PAGE + 1 + 1


def test_no_more_than_a_page_is_kept() -> None:
    out: list[str] = []
    writer = TableWriter(out.append, Console(file=io.StringIO(), width=80), INFO)
    for index in range(PAGE):
        assert not out
        writer.write(row("a", index), SPAM)
    assert out


def test_what_texts_hold_cannot_steer_the_terminal() -> None:
    evil = "a\x1b[31mred\x9b2J\u202eright\x00\x7f[bold]markup[/bold]"
    answer = shown((row(evil), SPAM), (row(evil), NOBODY), color="standard")
    assert "\x1b[31m" not in answer
    assert not {"\x9b", "\u202e", "\x00", "\x7f"} & set(answer)
    assert "[bold]markup[/bold]" in answer


@given(st.text())
def test_printable_text_keeps_its_length_so_that_offsets_hold(text: str) -> None:
    assert len(printable(text)) == len(text)
    assert len(printable(text).splitlines()) <= 1


def test_a_megabyte_is_shown_in_part() -> None:
    words = TokenClassification((Entity("PER", 0.5, "Ada", 900_000, 900_003),), 9, truncated=True)
    answer = shown((row("x " * 500_000), words))
    assert "998,500 more characters (cut, 9 tokens)" in answer.replace("\n       ", " ")
    assert "900000-900003" in answer
    assert len(shown((row("x " * 500_000), SPAM))) < 1000


@pytest.mark.parametrize(
    ("score", "drawn"),
    [(0.0, ""), (1.0, "█" * 10), (0.5, "█" * 5), (0.06, "▋"), (0.999, "█" * 10), (-0.1, ""), (3.2, "")],
)
def test_bars(score: float, drawn: str) -> None:
    assert bar(score) == drawn
