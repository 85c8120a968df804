"""The board that the steps share: how long a request would wait, and that nothing eats the budget for ever."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clocks import Clock
from tritext import admission
from tritext import board as boards
from tritext.admission import Gate, Meter
from tritext.board import Board
from tritext.deadlines import Deadlines

GOAL = 2.0
RATE = 1000.0  # tokens a second


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path / "board")


def work(meter: Meter, clock: Clock, tokens: int) -> None:
    """The encoder does a batch of so many tokens."""
    meter.begin(tokens)
    clock.now += tokens / RATE
    meter.progress(tokens)
    meter.end()


def working(board: Board, clock: Clock) -> tuple[Gate, Meter]:
    """Both sides, the encoder's rate known."""
    gate, meter = Gate(board, GOAL), Meter(board)
    gate.pressure()
    gate.let_through(1000)
    work(meter, clock, 1000)
    return gate, meter


def test_a_request_waits_for_what_is_not_begun_and_for_an_encoder_to_be_free(board: Board, clock: Clock) -> None:
    gate, meter = working(board, clock)
    assert gate.pressure().ahead == 0
    gate.let_through(1500)
    assert gate.pressure().ahead == pytest.approx(1.5)
    meter.begin(1000)
    assert gate.pressure().ahead == pytest.approx(1.5)
    clock.now += 0.5
    meter.progress(500)
    assert gate.pressure().ahead == pytest.approx(1.0)


def test_an_idle_instance_takes_a_request_while_another_one_has_a_large_one(board: Board, clock: Clock) -> None:
    gate, meter = working(board, clock)
    other = Meter(board)
    work(other, clock, 500)
    gate.pressure()
    gate.let_through(60_000)
    meter.begin(60_000)
    assert gate.pressure().ahead == pytest.approx(0, abs=1e-6)
    assert gate.pressure().refusal(None) is None


def test_what_waits_longer_than_the_goal_is_refused_and_told_when_to_come(board: Board, clock: Clock) -> None:
    gate, _ = working(board, clock)
    gate.let_through(1900)
    assert gate.pressure().refusal(None) is None
    gate.let_through(600)
    refusal = gate.pressure().refusal(None)
    assert refusal is not None
    assert str(refusal) == (
        "There are 2.5 s of work waiting for this model already, and its latency goal is 2 s. Try again in 1.0 s."
    )


def test_what_a_fence_has_let_in_is_refused_only_where_it_erred_by_far(board: Board, clock: Clock) -> None:
    gate, _ = working(board, clock)
    gate.let_through(2400)
    assert gate.pressure().refusal(None) is not None
    assert gate.pressure().refusal(None, was_let_in=True) is None
    gate.let_through(200)
    assert gate.pressure().refusal(None, was_let_in=True) is not None


def test_what_could_not_be_begun_in_its_own_time_is_refused(board: Board, clock: Clock) -> None:
    gate, _ = working(board, clock)
    gate.let_through(1000)
    assert gate.pressure().refusal(1.5) is None
    refusal = gate.pressure().refusal(0.5)
    assert refusal is not None
    assert refusal.timeout == 0.5
    assert "this request may take 0.5 s" in str(refusal)


def test_a_request_of_any_size_is_taken_where_nothing_waits(board: Board, clock: Clock) -> None:
    gate, meter = working(board, clock)
    assert gate.pressure().refusal(None) is None
    gate.let_through(1_000_000)
    meter.begin(1_000_000)
    assert gate.pressure().refusal(None) is not None


def test_what_is_lost_on_the_way_is_forgotten_when_the_encoder_stands_idle(board: Board, clock: Clock) -> None:
    gate, meter = working(board, clock)
    gate.let_through(50_000)  # and they never come
    clock.now += 0.2
    assert gate.pressure().refusal(None) is not None
    clock.now += 1.0
    meter.beat()
    assert gate.pressure().ahead == 0
    gate.let_through(500)
    assert gate.pressure().ahead == pytest.approx(0.5)


def test_what_is_lost_while_the_encoder_is_busy_stops_counting_soon(board: Board, clock: Clock) -> None:
    """Requests of a tenth of a second keep coming: for a moment they are refused, and then never again."""
    gate, meter = working(board, clock)
    gate.let_through(50_000)
    taken = []
    for _ in range(100):
        meter.beat()
        taken.append(gate.pressure().refusal(None) is None)
        if taken[-1]:
            gate.let_through(100)
            work(meter, clock, 100)
        else:
            clock.now += 0.1
    assert taken.index(True) <= 12
    assert all(taken[taken.index(True) :])


def test_a_restarted_encoder_begins_with_nothing_waiting(board: Board, clock: Clock) -> None:
    gate, meter = working(board, clock)
    gate.let_through(50_000)
    meter.begin(10_000)
    meter._slot[boards.OWNER] = float(_gone())
    again = Meter(board)
    assert gate.pressure().ahead == 0
    gate.let_through(1000)
    work(again, clock, 1000)
    gate.let_through(1000)
    assert gate.pressure().ahead == pytest.approx(1.0)
    assert len(list(board.slots(boards.METER))) == 1, "it took a slot of its own"


def test_a_step_that_is_asked_by_itself_gives_nobody_credit(board: Board, clock: Clock) -> None:
    gate, meter = working(board, clock)
    work(meter, clock, 20_000)  # nobody let these through
    gate.pressure()
    gate.let_through(3000)
    assert gate.pressure().ahead == pytest.approx(3.0)


def test_nothing_is_refused_while_no_encoder_gives_signs_of_life(board: Board, clock: Clock) -> None:
    gate, meter = working(board, clock)
    gate.let_through(5000)
    assert gate.pressure().refusal(None) is not None
    clock.now += 6
    assert gate.pressure().refusal(None) is None
    meter.beat()
    gate.let_through(5000)
    assert gate.pressure().refusal(None) is not None


def test_two_processes_see_each_other(tmp_path: Path) -> None:
    path = tmp_path / "board"
    board = Board(path)
    gate = Gate(board, GOAL)
    script = (
        "import sys, time; from pathlib import Path; from tritext.admission import Meter\n"
        "from tritext.board import Board\n"
        "meter = Meter(Board(Path(sys.argv[1])))\n"
        "meter.begin(100); time.sleep(0.2); meter.progress(100); meter.end()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    gate.let_through(100)
    assert 0 < gate.pressure().rate < 600


def test_without_the_environment_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "spam_tokenizer_0123abcd" / "1"
    assert (admission.gate(version), admission.meter(version), admission.deadlines(version)) == (None, None, None)
    monkeypatch.setenv(admission.BOARDS, f"{tmp_path}/missing/")
    monkeypatch.setenv(admission.LATENCY_GOAL, "2")
    assert admission.gate(version) is None  # no board can be had, which is no reason not to serve
    monkeypatch.setenv(admission.BOARDS, f"{tmp_path}/")
    assert admission.gate(version) is not None
    assert admission.meter(version.parents[1] / "spam_encoder_0123abcd" / "1") is not None
    assert (tmp_path / "spam_0123abcd").is_file()
    monkeypatch.setenv(admission.LATENCY_GOAL, "0")
    assert admission.gate(version) is None


def test_deadlines_are_told_by_the_request(tmp_path: Path, clock: Clock) -> None:
    written, read = Deadlines(tmp_path / "table"), Deadlines(tmp_path / "table")
    written.note("one", 1.0)
    written.note("other", 5.0)
    assert [read.passed(request) for request in ("one", "other", "unknown")] == [False, False, False]
    clock.now += 2
    assert [read.passed(request) for request in ("one", "other", "unknown")] == [True, False, False]
    written.note("one", 1.0)  # tried again
    assert not read.passed("one")
    written.note("other", 0.01)  # somebody else calls it so too
    clock.now += 1
    assert not read.passed("other")


def test_deadlines_are_told_by_the_number_of_the_call(tmp_path: Path, clock: Clock) -> None:
    """Two callers with one id are two calls."""
    written, read = Deadlines(tmp_path / "table"), Deadlines(tmp_path / "table")
    assert not read.passed(0)
    written.note(7, 0.5)
    written.note(8, 5.0)
    clock.now += 1
    assert read.passed(7)
    assert not read.passed(8)
    assert not read.passed(7 + 8192)  # it has the same place
    written.note(7 + 8192, 5.0)
    assert not read.passed(7)
    assert not read.passed(2**64 - 1)


def _gone() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""], env={**os.environ})
    process.wait()
    return process.pid
