"""The command `tritext classify`, as a program against a made-up server."""

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from fake_triton import FakeTriton, Refusal, label_of, slowly

PROGRAM = (
    "import typer; from tritext.cli.classify import classify; from tritext.errors import TritextError\n"
    "import sys; app = typer.Typer(pretty_exceptions_enable=False); app.command()(classify)\n"
    "try: app()\n"
    "except TritextError as error: sys.exit(f'error: {error}')\n"
)
ENVIRONMENT = {**os.environ, "TERM": "dumb"}


def command(server: FakeTriton, *arguments: object) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *map(str, arguments), "--url", server.address]


def run(server: FakeTriton, *arguments: object, stdin: str | bytes = "") -> "subprocess.CompletedProcess[str]":
    raw = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        command(server, *arguments), input=raw, capture_output=True, env=ENVIRONMENT, timeout=60, check=False
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def documents(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with FakeTriton() as fake:
        yield fake


@pytest.fixture
def tagger() -> Iterator[FakeTriton]:
    with FakeTriton(task="token-classification") as fake:
        yield fake


def test_texts_of_the_command_line_as_a_table(server: FakeTriton) -> None:
    done = run(server, "spam", "ham and eggs", "spam", "--top-k", 2)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"1 +ham and eggs +ham +0\.750 +█+", done.stdout)
    assert "\x1b" not in done.stdout
    assert server.seen[0].texts == ["ham and eggs", "spam"]


def test_lines_of_stdin(server: FakeTriton) -> None:
    done = run(server, "spam", "-", "--json", stdin="one\n\nthree")
    assert [(d["text"], d["labels"][0]["label"]) for d in documents(done.stdout)] == [
        (text, label_of(text)) for text in ("one", "", "three")
    ]


def test_csv_in_and_out(server: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "mails.csv"
    path.write_text('id,body\n1,"ham\nand eggs"\n2,spam\n', encoding="utf-8")
    done = run(server, "spam", "--file", path, "--column", "body", "--output-format", "csv", "--top-k", 2)
    assert list(csv.reader(io.StringIO(done.stdout, newline=""))) == [
        ["id", "body", "label", "score", "label_2", "score_2"],
        ["1", "ham\nand eggs", "ham", "0.75", "spam", "0.125"],
        ["2", "spam", "spam", "0.75", "ham", "0.125"],
    ]


def test_json_lines_in_and_a_file_out(server: FakeTriton, tmp_path: Path) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_text('{"text": "ham", "n": 1}\n{"text": "späm", "n": 2}\n', encoding="utf-8")
    done = run(server, "spam", "--file", path, "--json", "--out", out)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [(d["text"], d["n"], d["truncated"]) for d in documents(out.read_text(encoding="utf-8"))] == [
        ("ham", 1, False), ("späm", 2, False)
    ]  # fmt: skip


def test_the_format_can_be_said(server: FakeTriton) -> None:
    done = run(server, "spam", "-", "--input-format", "csv", "--json", stdin="text\nham\n")
    assert documents(done.stdout)[0]["text"] == "ham"


def test_entities(tagger: FakeTriton) -> None:
    done = run(tagger, "pii", "Ada met Grace", "--json")
    assert [e["word"] for e in documents(done.stdout)[0]["entities"]] == ["Ada", "Grace"]
    assert "[Ada](NAME) met [Grace](NAME)" in run(tagger, "pii", "Ada met Grace").stdout


def test_pairs(server: FakeTriton) -> None:
    run(server, "nli", "a", "b", "--pair", "p", "--pair", "q")
    run(server, "nli", "a", "b", "--pair", "p")
    run(server, "nli", "-", "--pair", "p", stdin="a\nb\n")
    assert [seen.pairs for seen in server.seen] == [["p", "q"], ["p", "p"], ["p", "p"]]


def test_only_the_parameters_that_were_given_are_sent(server: FakeTriton, tagger: FakeTriton) -> None:
    run(server, "spam", "a")
    assert server.seen[-1].parameters == {}
    run(
        server,
        "spam",
        "a",
        "--top-k",
        "all",
        "--threshold",
        "0.1",
        "--function-to-apply",
        "none",
        "--truncation",
        "left",
    )
    assert server.seen[-1].parameters == {
        "top_k": "all", "threshold": 0.1, "function_to_apply": "none", "truncation": "left"
    }  # fmt: skip
    run(tagger, "pii", "a", "--aggregation-strategy", "simple", "--ignore-labels", "O,MISC")
    assert tagger.seen[-1].parameters == {"aggregation_strategy": "simple", "ignore_labels": "O,MISC"}


def test_set_takes_the_place_of_an_option_and_csv_has_all_of_it(server: FakeTriton) -> None:
    done = run(server, "spam", "ham", "--top-k", 1, "--set", "top_k=3", "--output-format", "csv")
    assert server.seen[-1].parameters == {"top_k": "3"}
    assert done.stdout.splitlines()[0].count("label") == 3


def test_batches(server: FakeTriton) -> None:
    run(server, "spam", "-", "--batch-size", 3, stdin="x\n" * 10)
    assert sorted(len(seen.texts) for seen in server.seen) == [1, 3, 3, 3]


@pytest.mark.parametrize(
    "arguments",
    [
        ("spam",),
        ("spam", "a", "--file", __file__),
        ("spam", "-", "a"),
        ("spam", "--file", "/no/such/file"),
        ("spam", "a", "b", "c", "--pair", "p", "--pair", "q"),
        ("spam", "-", "--pair", "p", "--pair", "q"),
        ("spam", "a", "--output-format", "xml"),
        ("spam", "a", "--batch-size", "0"),
        ("spam", "--file", __file__, "--out", __file__),
        ("spam", "a", "--set", "result_type=X"),
        (),
    ],
)
def test_wrong_usage_is_exit_code_2_and_asks_nothing_of_the_server(server: FakeTriton, arguments: tuple[str]) -> None:
    done = run(server, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not server.seen
    assert Path(__file__).stat().st_size > 0


@pytest.mark.parametrize("link", [Path.hardlink_to, Path.symlink_to])
def test_a_file_on_stdin_is_not_overwritten(server: FakeTriton, tmp_path: Path, link: Callable[..., None]) -> None:
    path, other = tmp_path / "in.txt", tmp_path / "other"
    path.write_text("one\ntwo\n")
    link(other, path)
    for out in (path, other):
        with path.open("rb") as stdin:
            done = subprocess.run(
                command(server, "spam", "-", "--out", out),
                stdin=stdin, capture_output=True, env=ENVIRONMENT, timeout=60, check=False,
            )  # fmt: skip
        assert done.returncode == 2
        assert b"is the file that is read" in done.stderr
        assert path.read_text() == "one\ntwo\n"
    assert not server.seen


def test_a_file_that_is_not_read_is_overwritten(server: FakeTriton, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("old")
    assert run(server, "spam", "-", "--json", "--out", out, stdin="one\n").returncode == 0
    assert [d["text"] for d in documents(out.read_text())] == ["one"]
    assert run(server, "spam", "two", "--json", "--out", out).returncode == 0
    assert [d["text"] for d in documents(out.read_text())] == ["two"]
    null = subprocess.run(
        command(server, "spam", "-", "--out", os.devnull), stdin=subprocess.DEVNULL, env=ENVIRONMENT, timeout=60,
        check=False,
    )  # fmt: skip
    assert null.returncode == 0


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def failed(done: "subprocess.CompletedProcess[str]") -> str:
    """The one sentence of a failure."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").strip()


def test_failures_are_one_sentence(server: FakeTriton, tmp_path: Path) -> None:
    assert failed(run(server, "absent", "a")).startswith(f"The server at {server.address} has no model absent")
    server.behave = slowly(1)
    assert "did not answer within 0.2 s" in failed(run(server, "spam", "a", "--timeout", 0.2))
    out = tmp_path / "no" / "out"
    server.behave = slowly(0)
    assert failed(run(server, "spam", "a", "--out", out)) == f"{out} cannot be written: No such file or directory."


def test_a_server_that_goes_away_is_one_sentence_too(tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a line of text\n" * 10_000)
    with FakeTriton(behave=slowly(0.05)) as server:
        process = subprocess.Popen(
            command(server, "spam", "--file", path, "--json"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, text=True,
        )  # fmt: skip
        wait_until(lambda: len(server.seen) > 8)  # more would fill the pipe that nobody reads yet
    out, error = process.communicate(timeout=20)
    sentence = failed(subprocess.CompletedProcess([], process.returncode, out, error))
    assert re.search(r"That is lines \d+ to \d+ of .*in\.txt\.$", sentence)
    assert len(documents(out)) >= 32


def test_a_full_disk_is_told(server: FakeTriton) -> None:
    assert (
        failed(run(server, "spam", "a", "--out", "/dev/full"))
        == "/dev/full cannot be written: No space left on device."
    )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("in.txt", b"fine\n\xff\n", "line 2 is not valid UTF-8"),
        ("in.jsonl", b'{"text": "fine"}\n{broken\n', "line 2 is not valid JSON"),
        ("in.csv", b"text,n\nfine,1\nx\n", "line 3 has 1 values"),
    ],
)
def test_bad_input_names_its_line_after_the_results_before_it(
    server: FakeTriton, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    done = run(server, "spam", "--file", path, "--json")
    assert failed(done).startswith(f"{path}, {sentence}")
    assert [d["text"] for d in documents(done.stdout)] == ["fine"]


def test_what_the_server_says_of_a_text_is_brought_back_to_its_line(server: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'\n{{"text": "{index}"}}\n' for index in range(50)), encoding="utf-8")

    def refuse(seen: Any) -> None:
        if "17" in seen.texts:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"TEXT[{seen.texts.index('17')}] has 900 tokens.")

    server.behave = refuse
    done = run(server, "spam", "--file", path, "--json", "--batch-size", 4)
    assert failed(done).startswith("TEXT[17] has 900 tokens.")
    assert failed(done).endswith(f"That is line 36 of {path}.")
    assert len(documents(done.stdout)) == 16


def test_a_lone_surrogate_in_json_is_brought_back_to_its_line(server: FakeTriton) -> None:
    lines = '{"text": "a"}\n{"text": "\\ud800"}\n'
    done = run(server, "spam", "-", "--input-format", "jsonl", "--json", stdin=lines)
    assert "lone surrogate" in failed(done)
    assert failed(done).endswith("That is line 2 of stdin.")


def test_arguments_that_are_not_utf8(server: FakeTriton) -> None:
    done = subprocess.run(
        [*command(server, "spam", "a"), b"\xff"], capture_output=True, env=ENVIRONMENT, timeout=60, check=False
    )
    assert done.returncode == 1
    assert b"That is text 2 of the command line." in done.stderr


def test_a_surrogate_elsewhere_in_the_callers_row_survives(server: FakeTriton) -> None:
    done = run(server, "spam", "-", "--input-format", "jsonl", "--json", stdin='{"text": "a", "x": "\\ud800"}\n')
    assert done.returncode == 0
    assert documents(done.stdout)[0]["x"] == "\ud800"


@pytest.mark.parametrize(("written", "head"), [("text", b""), ("csv", b"text\n")])
def test_a_live_source_is_answered_while_it_pauses(server: FakeTriton, written: str, head: bytes) -> None:
    with subprocess.Popen(
        command(server, "spam", "-", "--json", "--input-format", written),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(head)
        for text in ("one", "two"):
            process.stdin.write(text.encode() + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert process.wait(10) == 0


def interrupt(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    out, error = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert process.returncode == 130
    assert error == b""
    return out, error


def test_ctrl_c_ends_cleanly_and_keeps_what_is_finished(server: FakeTriton, tmp_path: Path) -> None:
    path, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    path.write_text("".join(f"text {index}\n" for index in range(100_000)))
    server.behave = slowly(0.02)
    process = subprocess.Popen(
        command(server, "spam", "--file", path, "--json", "--out", out, "--batch-size", 2),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    wait_until(lambda: len(server.seen) >= 40)
    interrupt(process)
    texts = [document["text"] for document in documents(out.read_text())]
    assert texts == [f"text {index}" for index in range(len(texts))]
    assert len(texts) >= 60
    time.sleep(0.3)
    assert server.in_flight == 0


def test_ctrl_c_while_a_table_page_is_gathered_shows_it(server: FakeTriton) -> None:
    server.behave = lambda seen: time.sleep(30 if "hang" in seen.texts else 0)
    process = subprocess.Popen(
        command(server, "spam", "ham", "hang", "x", "--batch-size", 1),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    wait_until(lambda: len(server.seen) == 3)
    time.sleep(0.5)
    out, _ = interrupt(process)
    assert b"ham" in out


def test_ctrl_c_while_waiting_for_input(server: FakeTriton) -> None:
    process = subprocess.Popen(
        command(server, "spam", "-", "--json"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b"one\n")
    process.stdin.flush()
    wait_until(lambda: bool(server.seen))
    time.sleep(0.5)
    out, _ = interrupt(process)
    assert json.loads(out)["text"] == "one"


@pytest.mark.parametrize("output", ["jsonl", "csv", "table"])
def test_a_reader_that_has_seen_enough_ends_it_quietly(server: FakeTriton, tmp_path: Path, output: str) -> None:
    path = tmp_path / "in.txt"
    path.write_text("a line of text\n" * 200_000)
    with subprocess.Popen(
        command(server, "spam", "--file", path, "--output-format", output),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == 141
        assert process.stderr.read() == b""
    assert sum(len(seen.texts) for seen in server.seen) < 50_000


def in_terminal(arguments: list[str], *, stdout: int | None = None) -> bytes:
    """What a terminal shows of a program whose stderr, and stdout unless given, it is."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=stdout or follower, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # the program is gone
                break
            shown += chunk
        assert process.wait(30) == 0
    os.close(leader)
    return shown


def test_progress_is_drawn_on_a_terminal_and_never_into_the_output(server: FakeTriton, tmp_path: Path) -> None:
    path, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    path.write_text("a line of text\n" * 2000)
    server.behave = slowly(0.01)
    shown = in_terminal(command(server, "spam", "--file", path, "--json", "--out", out))
    assert "2,000 texts" in shown.decode()
    assert re.search(r"\d\d:\d\d", shown.decode())
    assert len(documents(out.read_text())) == 2000

    with (tmp_path / "piped").open("wb") as piped:
        shown = in_terminal(command(server, "spam", "--file", path, "--json"), stdout=piped.fileno())
    assert "2,000 texts" in shown.decode()
    assert len(documents((tmp_path / "piped").read_text())) == 2000


def test_on_a_terminal_tables_stand_above_the_progress_and_all_rows_are_there(
    server: FakeTriton, tmp_path: Path
) -> None:
    path = tmp_path / "in.txt"
    path.write_text("".join(f"text-{index};\n" for index in range(200)))
    server.behave = slowly(0.05)
    shown = in_terminal(command(server, "spam", "--file", path)).decode()
    assert re.findall(r"text-(\d+);", shown) == [str(index) for index in range(200)]
    assert "\x1b[1;36mham" in shown
    assert "\x1b[?25h" in shown.rpartition("texts")[2]  # the cursor is back


def test_no_progress_for_texts_of_the_command_line(server: FakeTriton) -> None:
    assert "texts" not in in_terminal(command(server, "spam", "ham")).decode()


def peak_memory(arguments: list[str], note: Path) -> int:
    """The most memory that a program held, in KiB. Its own word: what wait4 tells begins with its parent's."""
    interpreter, flag, program, *rest = arguments
    at_exit = f"import atexit, shutil; atexit.register(shutil.copy, '/proc/self/status', {str(note)!r})\n"
    subprocess.run([interpreter, flag, at_exit + program, *rest], check=True, env=ENVIRONMENT, timeout=90)
    found = re.search(r"VmHWM:\s+(\d+) kB", note.read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.timeout(120)
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = []
    path, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    with FakeTriton(max_batch_size=512, keep=False) as server:
        for count in (50_000, 300_000):
            path.write_text("".join(f"a line of text, number {index}, of some length\n" for index in range(count)))
            arguments = command(server, "spam", "--file", path, "--json", "--out", out, "--batch-size", 512)
            peaks.append(peak_memory(arguments, tmp_path / "status"))
            with out.open("rb") as written:
                assert sum(1 for _ in written) == count
    # 250,000 rows kept would be 100 MB and more.
    assert peaks[1] - peaks[0] < 4 * 1024, peaks
