"""Encoders in processes of their own that take turns: one at a time, all of them, whatever becomes of one."""

import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from threading import Thread, Timer
from typing import Any

import pytest

from tritext.engines import turns
from tritext.engines.turns import TURNS, NoTurn, Share, Turn, turn

# Says "waiting" and "mine"; keeps its turn until it is told something.
HOLDER = """
    print("waiting", flush=True)
    with Turn(folder):
        print("mine", flush=True)
        sys.stdin.readline()
"""
# The same on half of the cores.
HALF = HOLDER.replace("Turn(folder):", "Turn(folder).beside():")
# Twenty calls that take no processor's time, each with its begin and its end in a file that all write to.
CALLER = """
    turn, log = Turn(folder), os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(20):
        with turn:
            os.write(log, b"begin %d\\n" % os.getpid())
            time.sleep(0.01)
            os.write(log, b"end %d\\n" % os.getpid())
"""
# One turn, and its number in a file that all write to. Who waits never looks at the locks, for the bells say all.
NAMED = """
    from tritext.engines import turns
    turns._LOOK = turns._PATIENCE = 1e6
    turn, order = Turn(folder), os.open(folder / "order", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    print("ready", flush=True)
    sys.stdin.readline()
    with turn:
        os.write(order, b"%d\\n")
        time.sleep(0.1)
"""
HEAD = """
    import os, sys, time
    from pathlib import Path
    from tritext.engines.turns import Turn
    folder = Path(sys.argv[1])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start one of the scripts."""
    running: list[subprocess.Popen[str]] = []

    def run(script: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", dedent(HEAD) + dedent(script), str(tmp_path)]
        running.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def no_end_of_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits in vain is caught by the limit on a test's time."""
    monkeypatch.setattr(turns, "_PATIENCE", 1e6)


def says(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().strip() == word


def tell(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def holder_of_the_turn(start: Start, script: str = HOLDER) -> "subprocess.Popen[str]":
    process = start(script)
    says(process, "waiting")
    says(process, "mine")
    return process


def holder_of_the_place_behind(start: Start, folder: Path) -> "subprocess.Popen[str]":
    """One that waits behind the holder of the turn: another waiter no longer gets the place, as it would alone."""
    process = start(HOLDER)
    says(process, "waiting")
    while not is_locked(next(folder.glob("*-next.lock"))):
        time.sleep(0.01)
    return process


def is_locked(path: Path) -> bool:
    """Whether some process has it, as the kernel lists it."""
    return any(f":{path.stat().st_ino} " in line for line in Path("/proc/locks").read_text().splitlines())


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum("going on beside it" in record.getMessage() for record in caplog.records)


def test_calls_never_overlap_and_everybody_gets_his_share(start: Start, tmp_path: Path) -> None:
    callers = [start(CALLER) for _ in range(3)]
    for caller in callers:
        says(caller, "ready")
    for caller in callers:
        tell(caller)
    assert [caller.wait() for caller in callers] == [0, 0, 0]
    lines = (tmp_path / "log").read_text().split("\n")[:-1]
    assert len(lines) == 3 * 2 * 20
    for begin, end in zip(lines[::2], lines[1::2], strict=True):
        assert (begin.split()[0], end) == ("begin", begin.replace("begin", "end"))
    # When the first has made all its calls, the slowest has made some: without a queue, whoever has had its turn
    # gets the next one too.
    calls = [line.removeprefix("begin ") for line in lines[::2]]
    first = next(place for place in range(len(calls)) if calls[: place + 1].count(calls[place]) == 20)
    assert min(calls[:first].count(str(caller.pid)) for caller in callers) >= 5


def test_halves_are_computed_beside_each_other_and_the_whole_alone(start: Start, tmp_path: Path) -> None:
    halves = [holder_of_the_turn(start, HALF) for _ in range(2)]
    whole = start(HOLDER)
    says(whole, "waiting")
    call, behind = (next(tmp_path.glob(f"*-{name}.lock")) for name in ("call", "next"))
    while not is_locked(behind):
        time.sleep(0.01)
    tell(halves[0])
    assert halves[0].wait() == 0
    assert is_locked(behind), "it did not wait for the second half"
    late = start(HALF)
    says(late, "waiting")
    tell(halves[1])
    says(whole, "mine")  # though another half wants to go on
    tell(whole)
    says(late, "mine")
    assert is_locked(call)


def test_one_that_is_killed_gives_its_turn_back(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    holder = holder_of_the_turn(start)
    waiter = holder_of_the_place_behind(start, tmp_path)
    waiter.kill()
    holder.kill()
    with Turn(tmp_path):
        assert is_locked(next(tmp_path.glob("*-call.lock")))
    assert warnings(caplog) == 0


@pytest.mark.parametrize("place", ["turn", "place behind"])
def test_one_that_is_stopped_does_not_keep_the_others_waiting_for_ever(
    place: str, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = holder = holder_of_the_turn(start)
    if place == "place behind":
        stopped = holder_of_the_place_behind(start, tmp_path)
    os.kill(stopped.pid, signal.SIGSTOP)
    if stopped is not holder:
        holder.kill()
    turn = Turn(tmp_path)
    monkeypatch.setattr(turns, "_PATIENCE", 0.05)
    with turn:
        assert warnings(caplog) == 1
    assert turn.prefers_half()  # on all cores it would fight with the others
    monkeypatch.setattr(turns, "_PATIENCE", 1e6)
    for _ in range(3):
        with turn:  # nor do they wait again, call after call
            pass
    os.kill(stopped.pid, signal.SIGCONT)
    tell(stopped)
    assert stopped.wait() == 0
    monkeypatch.setattr(turn, "_lapsed_until", 0.0)
    with turn:  # and when it goes on, turns are taken again
        assert is_locked(next(tmp_path.glob("*-call.lock")))
    assert warnings(caplog) == 1


def test_who_waits_is_woken_and_need_not_look(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_LOOK", 1e6)
    holder = holder_of_the_turn(start)
    Timer(0.1, tell, [holder]).start()
    with Turn(tmp_path):
        assert holder.wait() == 0


def test_those_that_wait_are_woken_in_the_order_in_which_they_came(start: Start, tmp_path: Path) -> None:
    holder = holder_of_the_turn(start)
    waiters = [start(NAMED % number) for number in range(4)]
    for waiter in waiters:  # one after the other
        says(waiter, "ready")
        tell(waiter)
        while not is_listening(waiter.pid):
            time.sleep(0.01)
    tell(holder)
    assert [waiter.wait() for waiter in waiters] == [0] * 4
    assert (tmp_path / "order").read_text().split() == ["0", "1", "2", "3"]


def is_listening(pid: int) -> bool:
    """Whether an epoll of that process has something to listen to."""
    return any("tfd:" in file.read_text() for file in Path(f"/proc/{pid}/fdinfo").iterdir())


def test_a_bell_that_nobody_hears_keeps_nobody_from_his_turn(tmp_path: Path) -> None:
    turn = Turn(tmp_path)
    for path in tmp_path.glob("*.bell"):
        bell = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while os.write(bell, bytes(4096)):
                pass
        os.close(bell)
    for each in (turn, Turn(tmp_path)):
        with each:
            pass


def test_an_error_in_a_call_ends_the_turn(tmp_path: Path) -> None:
    turn, other = Turn(tmp_path), Turn(tmp_path)
    with pytest.raises(RuntimeError), turn:
        raise RuntimeError
    with other:
        pass


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_those_that_are_pinned_to_other_cores_are_no_rivals(start: Start, tmp_path: Path) -> None:
    holder_of_the_turn(start)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with Turn(tmp_path):
            assert len(list(tmp_path.glob("*-call.lock"))) == 2
    finally:
        os.sched_setaffinity(0, cores)


def test_turns_can_be_switched_off_and_are_where_no_lock_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(TURNS, str(tmp_path))
    assert isinstance(turn(), Turn)
    monkeypatch.setenv(TURNS, "off")
    assert isinstance(turn(), NoTurn)
    monkeypatch.setenv(TURNS, str(tmp_path / "missing"))
    with caplog.at_level(logging.WARNING):
        absent: Any = turn()
    assert isinstance(absent, NoTurn)
    assert "Encoders do not take turns" in caplog.text


@pytest.mark.parametrize("kind", ["lock", "bell"])
def test_what_another_put_in_their_place_is_not_taken_for_locks(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Turn(tmp_path)
    path = next(tmp_path.glob(f"*-call.{kind}"))
    path.unlink()
    if kind == "bell":
        path.touch()
    else:
        os.mkfifo(path)
    monkeypatch.setenv(TURNS, str(tmp_path))
    assert isinstance(turn(), NoTurn)
    assert f"{path.name}" in caplog.text


def test_an_encoder_that_is_gone_leaves_no_file_open(tmp_path: Path) -> None:
    kept = [Turn(tmp_path) for _ in range(50)]
    assert len(_open_in(tmp_path)) >= 4 * 50
    del kept
    gc.collect()
    assert not _open_in(tmp_path)


def _open_in(folder: Path) -> list[Path]:
    """This process's open files in a folder; other tests' files, closed at any time, do not count."""
    opened = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            opened.append(entry.readlink())
    return [path for path in opened if path.is_relative_to(folder)]


@pytest.mark.parametrize(
    ("waited", "held", "is_greedy"),
    [
        (0.0, 0.040, False),  # alone
        (0.001, 0.040, False),  # another is asked whether it is alive
        (0.010, 0.040, True),  # another wants a fifth of the machine
        (0.040, 0.040, False),  # both want all of it
        (0.040, 0.010, False),  # the one that wants little
    ],
)
def test_who_has_most_while_another_wants_some_is_greedy(waited: float, held: float, is_greedy: bool) -> None:
    assert greed_after(300, waited, held) is is_greedy


@pytest.mark.parametrize(
    ("others", "own", "is_even"),
    [
        (0.0, 0.040, False),  # alone
        (0.010, 0.040, False),  # another wants a fifth of the machine
        (0.030, 0.040, True),  # both want all of it
        (0.040, 0.030, True),
        (0.040, 0.010, False),  # the one that wants little
    ],
)
def test_those_that_want_all_each_as_much_are_even(others: float, own: float, is_even: bool) -> None:
    share, now = Share(1.0), time.monotonic()
    for _ in range(100):
        now += own + others
        share.note(own, others, now)
    assert share.is_even(now) is is_even
    assert not share.is_even(now + 2)


def test_a_half_knows_of_its_company(tmp_path: Path, start: Start) -> None:
    for company in (False, True):
        if company:
            holder_of_the_turn(start, HALF)
        turn = Turn(tmp_path)
        for _ in range(40):
            with turn.beside():
                time.sleep(0.05)
        assert turn.prefers_half() is company
        assert not turn.is_greedy()


def test_a_spike_is_not_greed() -> None:
    assert not greed_after(40, 0.010, 0.040)


def test_greed_is_forgotten_when_nobody_else_wants_anything() -> None:
    share, now = Share(4.0), time.monotonic()
    for number in range(1, 301):
        share.note(0.040, 0.010, now + 0.05 * number)
    assert share.is_greedy(now + 15)
    assert not share.is_greedy(now + 60)  # nothing at all has been asked meanwhile
    for number in range(301, 601):
        share.note(0.040, 0.0, now + 0.05 * number)
    assert not share.is_greedy(now + 30)


def greed_after(turns: int, waited: float, held: float) -> bool:
    """Whether one is greedy that had so many, all alike, one after the other."""
    share, now = Share(4.0), time.monotonic()
    for _ in range(turns):
        now += waited + held
        share.note(held, waited, now)
    return share.is_greedy(now)


def test_an_encoder_knows_that_it_waited(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_MEMORY", 1.0)
    own = Turn(tmp_path)
    with own:
        time.sleep(0.2)
    assert not own.is_greedy()
    holder = holder_of_the_turn(start)
    following = next(tmp_path.glob("*-next.lock"))

    def release() -> None:
        while not is_locked(following):
            time.sleep(0.01)
        time.sleep(0.1)
        tell(holder)

    Thread(target=release).start()
    with own:
        time.sleep(1.0)
    assert own.is_greedy()


def test_without_any_folder_for_the_locks_encoders_take_no_turns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(turns.tempfile, "gettempdir", missing)
    monkeypatch.setenv(TURNS, "off")
    assert isinstance(turn(), NoTurn)
    assert caplog.messages == []
    monkeypatch.delenv(TURNS)
    assert isinstance(turn(), NoTurn)
    assert "No usable temporary directory" in caplog.text
