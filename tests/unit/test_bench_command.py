"""The command `tritext bench` against a made-up server: what it sends, what it says, and how it fails."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from rich.console import Console

from fake_triton import FakeTriton, Refusal, Seen, slowly
from tritext import contract
from tritext.bench.served import Served
from tritext.cli import main
from tritext.cli.bench import _check_writable, _server
from tritext.errors import InvalidInput

COMMAND = [sys.executable, "-c", "from tritext.cli import main; main()", "bench"]
SHORT = ("--duration", 0.4, "--warmup", 0.1, "--texts", 16)


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "TERM": "dumb", "COLUMNS": "120"},
        timeout=60,
        check=False,
        text=True,
    )


def bench(server: FakeTriton, *arguments: object) -> "subprocess.CompletedProcess[str]":
    done = run("spam", "--url", server.address, *SHORT, *arguments)
    assert "Traceback" not in done.stderr
    return done


def results(done: "subprocess.CompletedProcess[str]") -> list[Any]:
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["results"]
    assert isinstance(found, list)
    return found


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with FakeTriton() as fake:
        yield fake


def test_a_closed_and_an_open_loop_as_a_table(server: FakeTriton) -> None:
    done = bench(server, "--concurrency", "1,4", "--rate", 50)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r"load +req/s +texts/s +tokens/s +p50 ms +p90 ms +p99 ms +max ms +refused +failed", lines[0])
    assert [re.split(r"  +", line)[0] for line in lines[2:5]] == ["concurrency 1", "concurrency 4", "rate 50/s"]
    assert re.match(r"in the server +queue ms +tokenize +encode +postprocess", lines[6])
    assert max(map(len, lines)) <= 100
    assert "left out: Nobody gives metrics at http://127.0.0.1:8002/metrics" in done.stderr or "says nothing" in (
        done.stderr
    )
    assert re.search(r"Concurrency 4 .* texts/s, p50 .* ms, p99 .* ms", done.stderr)


def test_json_for_programs_and_into_a_file(server: FakeTriton, tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    done = bench(server, "--concurrency", 2, "--concurrency", 3, "--json", "--out", out, "--set", "top_k=2")
    assert [(level["loop"], level["concurrency"]) for level in results(done)] == [("closed", 2), ("closed", 3)]
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document == json.loads(done.stdout)
    assert document["command"].startswith("tritext bench spam --url ")
    assert {"machine", "versions", "date", "model", "texts", "conditions"} <= set(document)
    assert (document["parameters"], document["batch_size"]) == ({"top_k": "2"}, 1)
    assert document["results"][0]["server"] is None
    assert server.seen[-1].parameters == {"top_k": "2"}


def test_texts_and_tokens_are_those_that_were_sent(server: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    # The made-up server counts words, and two special tokens.
    path.write_text("".join(json.dumps({"body": "word " * count}) + "\n" for count in (1, 3)), encoding="utf-8")
    level = results(bench(server, "--file", path, "--column", "body", "--batch-size", 2, "--json"))[0]
    assert level["texts_per_second"] == pytest.approx(2 * level["requests_per_second"])
    assert level["tokens_per_second"] == pytest.approx(4 * level["texts_per_second"])
    # On a busy machine the window closes some milliseconds late.
    assert level["requests_per_second"] * 0.4 == pytest.approx(level["requests"], rel=0.05, abs=2)


def test_a_file_that_is_there_and_not_ours_to_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    path.write_text("of others")
    _check_writable("--out", path)
    monkeypatch.setattr(os, "access", lambda _, mode: mode == os.F_OK)  # root may write anywhere
    with pytest.raises(InvalidInput, match=r"--out is .*results\.json, which cannot be written"):
        _check_writable("--out", path)


def test_what_was_measured_is_printed_also_where_it_cannot_be_written(server: FakeTriton) -> None:
    done = bench(server, "--concurrency", 1, "--json", "--out", "/dev/full")
    assert done.returncode == 1
    assert "/dev/full cannot be written" in done.stderr
    assert json.loads(done.stdout)["results"]


def test_what_was_measured_is_written_also_where_nobody_reads_it(server: FakeTriton, tmp_path: Path) -> None:
    out, plot = tmp_path / "results.json", tmp_path / "plot.svg"
    line = [*COMMAND, "spam", "--url", server.address, *map(str, SHORT), "--out", str(out), "--plot", str(plot)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 141
    assert len(json.loads(out.read_text(encoding="utf-8"))["results"]) == 3
    assert plot.exists()


def test_a_server_of_our_own_has_its_plans_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    class Server:
        grpc_url, metrics_url = "here:1", "there:2"

        def __init__(self, repository: Path, *, models: Any, **_: object) -> None:
            done.append(("start", repository, models))

        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait_ready(self) -> None:
            pass

    monkeypatch.setattr("tritext.serve.Server", Server)
    monkeypatch.setattr("tritext.serve.ensemble.choose", lambda repository, names: [(repository, *names)])
    monkeypatch.setattr("tritext.serve.prepare.prepare", lambda models, _: done.append(("prepare", models)))
    with _server(Console(file=io.StringIO()), "spam", None, tmp_path, None) as urls:
        assert urls == ("here:1", "there:2")
    models = [(tmp_path.resolve(), "spam")]
    assert done == [("prepare", models), ("start", tmp_path, models)]


# --- tokens of texts that become several rows, and texts that the model answers --------------------------------------


@contextmanager
def counting(server: FakeTriton, rows: int) -> Iterator[str]:
    """Metrics that count each text as so many rows of its length."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            texts = [text for seen in server.seen if contract.COUNT_ONLY not in seen.parameters for text in seen.texts]
            tokens = 1000 + rows * sum(len(text.split()) + 2 for text in texts)  # some of which were there before
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'tritext_tokens_total{{model="spam_encoder_3f9c01aa"}} {tokens}\n'.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Metrics) as metrics:
        thread = threading.Thread(target=metrics.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{metrics.server_port}/metrics"
        metrics.shutdown()
        thread.join()


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Texts of 3, 5 and 300 words, two tokens more each."""
    path = tmp_path / "words.txt"
    path.write_text("".join("word " * count + "\n" for count in (3, 5, 300)), encoding="utf-8")
    return path


SEVERAL = {
    "labels": ("zero-shot-classification", ("--set", "candidate_labels=food")),
    "windows": ("text-classification", ("--set", "truncation=window")),
    "windows by the build's default": ("text-classification", ()),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_tokens_of_texts_in_several_rows_are_those_that_the_server_counts(
    server: FakeTriton, words: Path, case: str
) -> None:
    server.task, options = SEVERAL[case]
    with counting(server, rows=3) as url:
        load = ("--requests", 6, "--warmup", 0, "--concurrency", 1)
        done = bench(server, *load, "--file", words, *options, "--metrics-url", url, "--json")
    level = results(done)[0]
    assert level["tokens_per_second"] == pytest.approx(3 * (5 + 7 + 302) / 3 * level["texts_per_second"])


@pytest.mark.parametrize("case", SEVERAL)
def test_tokens_that_nobody_can_count_are_left_out(server: FakeTriton, words: Path, tmp_path: Path, case: str) -> None:
    server.task, options = SEVERAL[case]
    plot = tmp_path / "plot.svg"
    load = ("--requests", 6, "--warmup", 0, "--concurrency", 1, "--file", words, *options, "--plot", plot)
    level = results(bench(server, *load, "--metrics-url", "http://127.0.0.1:1/metrics", "--json"))[0]
    assert level["tokens_per_second"] is None
    assert level["texts_per_second"] > 0
    assert "<!-- texts per second -->" in plot.read_text(encoding="utf-8")
    table = bench(server, *load, "--metrics-url", "http://127.0.0.1:1/metrics").stdout.splitlines()
    assert re.split(r"  +", table[2])[3] == "\N{EN DASH}"


@pytest.mark.parametrize(
    ("task", "parameters", "longest", "is_expanded"),
    [
        ("text-classification", {}, 128, False),
        ("text-classification", {}, 129, True),
        ("text-classification", {"truncation": "left"}, 129, False),
        ("token-classification", {"truncation": "window"}, 128, False),
        ("token-classification", {"truncation": "window"}, 129, True),
        ("feature-extraction", {}, 129, False),
        ("question-answering", {}, 20, True),  # a window may be of any length
        ("reranking", {"documents": "a"}, 20, True),
    ],
)
def test_where_a_text_may_be_several_rows(
    server: FakeTriton, task: str, parameters: dict[str, Any], longest: int, is_expanded: bool
) -> None:
    server.task = task
    assert Served(server.address, "spam", 5.0).is_expanded([5, longest], parameters) is is_expanded


def test_texts_for_a_model_that_does_not_answer_any_have_its_sample(server: FakeTriton) -> None:
    server.config_parameters = {**server.parameters(), "sample": "Does this server [MASK]?"}

    def fill(seen: Seen) -> None:
        if not all("[MASK]" in text for text in seen.texts):
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "TEXT[0] has no [MASK]")

    server.behave = fill
    done = bench(server, "--lengths", 16, "--concurrency", 1, "--json")
    assert results(done)[0]["failed"] == {}
    texts = json.loads(done.stdout)["texts"]
    assert (texts["median"], texts["longest"]) == (16, 16)


def test_so_many_requests_and_no_more(server: FakeTriton) -> None:
    level = results(bench(server, "--concurrency", 2, "--requests", 10, "--warmup", 0, "--duration", 30, "--json"))[0]
    assert (level["requests"], level["failed"]) == (10, {})
    assert level["requests_per_second"] * level["seconds"] == pytest.approx(10)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (grpc.StatusCode.INTERNAL, r"requests failed: INTERNAL"),
        (grpc.StatusCode.UNAVAILABLE, r"requests were refused, 99 % of them +within [\d.]+ ms"),
    ],
)
def test_failures_are_told_by_kind_and_refusals_apart(server: FakeTriton, code: grpc.StatusCode, told: str) -> None:
    asked = 0

    def sometimes(seen: Seen) -> None:
        nonlocal asked
        asked += 1
        if asked > 20 and asked % 2:
            raise Refusal(code, "Exceeds maximum queue size")

    server.behave = sometimes
    done = bench(server, "--concurrency", 2)
    assert done.returncode == 0
    assert re.search(rf"concurrency 2: \d+ of \d+ {told}", " ".join(done.stdout.split()))


def test_a_load_under_which_nothing_is_answered_is_an_error(server: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("a text\n", encoding="utf-8")

    def too_late(_: Seen) -> None:
        if len(server.seen) > 1:  # the first asks for its tokens
            time.sleep(0.4)

    server.behave = too_late
    done = bench(server, "--rate", 20, "--timeout", 0.2, "--file", path)
    assert done.returncode == 1
    assert "DEADLINE_EXCEEDED" in done.stdout
    assert "no request was answered in time" in done.stderr


def test_a_plot(server: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    assert bench(server, "--concurrency", "1,2", "--rate", 30, "--plot", path).returncode == 0
    drawn = path.read_text(encoding="utf-8")
    assert drawn.startswith("<?xml")
    assert all(f"<!-- {label} -->" in drawn for label in ("concurrency 2", "rate 30/s", "closed loop, p99"))


def test_a_plot_without_matplotlib(server: FakeTriton, monkeypatch: pytest.MonkeyPatch) -> None:
    from tritext.bench import plot
    from tritext.errors import TritextError

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(TritextError, match=r"pip install 'tritext\[bench\]'"):
        plot.check(Path("plot.svg"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rate", "0"), "Invalid value for --rate: '0' is not a number above 0"),
        (("--rate", "nan"), "'nan' is not a number"),
        (("--rate", "1e9"), "100,000 at most"),
        (("--concurrency", "1,x"), "Invalid value for --concurrency: 'x' is not a whole number above 0"),
        (("--lengths", "10,5,1"), "--lengths is '10,5,1'"),
        (("--set", "top_k"), "'top_k' is not KEY=VALUE"),
        (("--file", "missing.txt"), "'missing.txt' does not exist"),
        (("--repository", "repo"), "Give --url or --repository, not both"),
        (("--plot", "plot.gif"), "Let it end in .svg, .png, .pdf"),
        (("--plot", "missing/plot.svg"), "--plot is missing/plot.svg, and missing is no folder that can be written to"),
        (("--out", "missing/results.json"), "--out is missing/results.json, and missing is no folder"),
        (("--batch-size", "65"), "takes at most 64 texts in a request"),
        (("--metrics-url", "there"), "Give it as http://HOST:PORT/metrics"),
        (("--metrics-url", "http://there:abc/metrics"), "Give it as http://HOST:PORT/metrics"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(
    server: FakeTriton,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["tritext", "bench", "spam", "--url", server.address, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert message in re.sub(r"[\s│]+", " ", err)
    assert all(contract.COUNT_ONLY in seen.parameters for seen in server.seen)  # and before any load


def test_who_is_not_there(server: FakeTriton) -> None:
    done = run("absent", "--url", server.address)
    assert (done.returncode, done.stdout) == (1, "")
    assert "error: The server at 127.0.0.1:" in done.stderr
    assert "has no model absent" in done.stderr
    done = run("spam", "--url", "127.0.0.1:1")
    assert done.returncode == 1
    assert "Nobody answers at 127.0.0.1:1 (Connection refused). Start a server (`tritext serve`)" in done.stderr


def test_a_file_without_texts(server: FakeTriton, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text("\n", encoding="utf-8")
    done = bench(server, "--file", path)
    assert (done.returncode, done.stderr) == (2, f"error: {path} holds no texts.\n")


def test_ctrl_c_ends_it_without_a_word(server: FakeTriton) -> None:
    server.behave = slowly(0.02)  # else a request is hardly ever seen in flight
    command = [*COMMAND, "spam", "--url", server.address, "--duration", "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and (server.in_flight == 0 or len(server.seen) < 50):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_it_loads_nothing_that_reads_checkpoints_or_draws() -> None:
    probe = "import sys, tritext.bench.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "transformers", "onnx", "openvino", "matplotlib"} & set(done.stdout.split())


def test_a_window_that_is_too_short_for_the_answers_is_told(server: FakeTriton) -> None:
    server.behave = slowly(0.2)
    assert "concurrency 4: answers take a good part of the 0.4 s" in bench(server, "--concurrency", 4).stdout
