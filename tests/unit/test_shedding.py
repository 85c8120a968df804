"""What the fences let into Triton: nothing that it has no time for, and never so many at once that it dies."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from clocks import Clock
from tritext.admission import Gate, Meter
from tritext.board import FENCE, Board
from tritext.calls import Calls, number
from tritext.serve import shedding
from tritext.serve.shedding import Shedder

GOAL = 2.0
RATE = 1000.0  # tokens a second
SPAM, PII = b"spam", b"pii"


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    return Calls(tmp_path / "calls")


class Place:
    """The steps of `spam`, and a fence's shedder in front of them."""

    def __init__(self, folder: Path, calls: Calls, clock: Clock, goal: float = GOAL) -> None:
        self.boards = {name: folder / name for name in ("spam", "pii")}
        self.board, self.calls, self.clock = Board(self.boards["spam"]), calls, clock
        self.gate, self.meter = Gate(self.board, GOAL), Meter(self.board)
        self.gate.pressure()
        self.gate.let_through(1000)
        self.meter.begin(1000)
        clock.now += 1000 / RATE
        self.meter.progress(1000)
        self.meter.end()
        self.shedder = Shedder(calls, goal, self.boards.get)
        self.shedder.refusal(SPAM)  # what was let through before it first looked does not count
        self.inside: list[int] = []

    def enter(self, call: int, size: int = 100, model: bytes = SPAM, *, waits: bool = True) -> None:
        self.shedder.enter(model, size, lambda: call if waits and not self.inside.append(call) else 0)

    def judge(self, call: int, tokens: int) -> None:
        """As the first step does."""
        self.gate.let_through(tokens)
        self.calls.judge(call, tokens)

    def is_refused(self, model: bytes = SPAM) -> bool:
        self.clock.now += 0.01
        self.meter.beat()
        return self.shedder.refusal(model) is not None


def ran(steps: Callable[[], None], seconds: float = 0.0) -> None:
    """`steps` in an event loop, and what comes of it in so many seconds."""

    async def main() -> None:
        steps()
        await asyncio.sleep(seconds)

    asyncio.run(main())


@pytest.fixture
def place(tmp_path: Path, calls: Calls, clock: Clock) -> Place:
    return Place(tmp_path, calls, clock)


def test_what_waits_longer_than_the_goal_is_refused_with_the_steps_own_words(place: Place) -> None:
    assert not place.is_refused()
    place.gate.let_through(2500)
    place.clock.now += 0.01
    refusal = place.shedder.refusal(SPAM)
    assert str(refusal) == (
        "There are 2.5 s of work waiting for this model already, and its latency goal is 2 s. Try again in 1.0 s."
    )


def test_what_is_on_its_way_counts_before_the_first_step_has_seen_it(place: Place) -> None:
    for call in range(1, 11):  # ten tokens for 100 bytes
        place.enter(call)
        place.judge(call, 10)
    assert not place.is_refused()

    def steps() -> None:
        taken = 0
        while not place.is_refused():
            place.enter(100 + taken)
            taken += 1
            assert taken < 1000
        assert taken == pytest.approx(GOAL * RATE / 10 / shedding._WEIGHT, abs=3)
        for call in range(taken):
            place.judge(100 + call, 0)  # refused there, or answered by Triton
        place.shedder._look()
        assert not place.is_refused()

    ran(steps)


def test_a_long_text_that_is_cut_keeps_nobody_out(place: Place) -> None:
    for call in range(1, 11):
        place.enter(call)
        place.judge(call, 10)
    place.enter(11, 5_000_000)
    assert not place.is_refused()


def test_before_anything_is_known_of_their_tokens_none_is_refused(place: Place) -> None:
    for _ in range(1000):
        assert not place.is_refused()
        place.shedder.enter(SPAM, 1000, lambda: 0)


def test_other_models_and_names_that_are_none_are_not_refused(place: Place) -> None:
    place.gate.let_through(50_000)
    assert place.is_refused()
    assert not place.is_refused(PII)
    assert not place.is_refused(b"spam_tokenizer_0123abcd")
    assert not place.is_refused(b"\xff\0")
    assert set(place.shedder._lines) == {SPAM, PII}


def test_without_a_goal_nothing_is_refused(tmp_path: Path, calls: Calls, clock: Clock) -> None:
    place = Place(tmp_path, calls, clock, goal=0.0)
    place.gate.let_through(50_000)
    assert not place.is_refused()


def test_a_board_that_cannot_be_had_refuses_nothing_and_says_so(
    place: Place, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    place.boards["spam"] = tmp_path / "missing" / "board"
    with caplog.at_level(logging.WARNING, "tritext"):
        assert not place.is_refused()
        assert not place.is_refused()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_new_build_is_judged_by_its_own_board(place: Place, tmp_path: Path) -> None:
    place.gate.let_through(50_000)
    assert place.is_refused()
    place.boards["spam"] = tmp_path / "spam_next"
    assert not place.is_refused()


def test_builds_that_come_and_go_leave_room_on_their_boards(place: Place, tmp_path: Path) -> None:
    there, other = place.boards["spam"], tmp_path / "spam_next"
    for _ in range(50):
        for place.boards["spam"] in (other, there):
            assert not place.is_refused()
    assert len(list(place.board.slots(FENCE))) == 1
    Meter(place.board)


def test_refusals_are_counted_among_the_first_steps(place: Place) -> None:
    place.gate.let_through(50_000)
    assert [place.is_refused() for _ in range(3)] == [True] * 3
    assert place.gate.refused_before() == 3
    assert Gate(place.board, GOAL).refused_before() == 0, "two steps would tell of the same"
    assert [slot[1] > 0 for slot in place.board.slots(FENCE)] == [True]


def test_few_are_in_triton_before_they_are_judged_and_the_others_follow_in_order(calls: Calls) -> None:
    shedder = Shedder(calls, 0.0, lambda _: None)
    inside: list[int] = []

    async def main() -> None:
        for call in range(1, 1001):
            shedder.enter(b"any", 100, lambda call=call: inside.append(call) or call)  # type: ignore[misc]
        first = len(inside)
        assert first <= 128
        await asyncio.sleep(0.02)
        assert len(inside) == first, "nothing was judged"
        while len(inside) < 1000:
            waited_for = len(inside)
            calls.judge(inside[waited_for - first], 5)
            async with asyncio.timeout(5):
                while len(inside) == waited_for:
                    await asyncio.sleep(0.001)
            assert len(inside) == waited_for + 1

    asyncio.run(main())
    assert inside == list(range(1, 1001))


def test_a_dead_first_step_keeps_no_other_model_waiting(place: Place) -> None:
    def steps() -> None:
        for call in range(1, 301):
            place.enter(call)
        before = len(place.inside)
        assert before < 300
        place.enter(301, model=PII)
        assert place.inside[before:] == [301]

    ran(steps)


def test_whoever_has_gone_takes_nobodys_place(place: Place) -> None:
    def steps() -> None:
        for call in range(1, 1001):
            place.enter(call, waits=call > 900)
        assert place.inside == list(range(901, 1001))

    ran(steps)


def test_answers_of_triton_itself_make_room_too(calls: Calls) -> None:
    shedder = Shedder(calls, 0.0, lambda _: None)
    inside: list[int] = []

    def steps() -> None:
        for call in range(1, 301):
            shedder.enter(b"no model", 100, lambda call=call: inside.append(call) or call)  # type: ignore[misc]
        for call in tuple(inside):
            shedder.answered(call)

    ran(steps, 0.05)
    assert len(inside) > 200


def test_calls_that_the_first_step_does_not_know_make_room_when_answered_and_keep_nobody_waiting(place: Place) -> None:
    place.calls.judge(1, 10)

    def steps() -> None:
        for call in range(2, 52):
            place.shedder.enter(SPAM, 100, lambda call=call: call, is_told=False)
        for call in range(52, 452):
            place.enter(call)
        first = len(place.inside)
        assert first < 100
        for call in list(place.inside):
            place.judge(call, 10)
        place.shedder._look()
        assert len(place.inside) == 2 * first, "who came first does not know that it was judged"
        for call in range(2, 52):
            place.shedder.answered(call)
        place.shedder._look()
        assert len(place.inside) == 2 * first + 50

    ran(steps)


def test_the_last_call_with_a_place_keeps_it(calls: Calls) -> None:
    assert calls.judged(5) is None
    calls.judge(5, 7)
    assert calls.judged(5) == 7
    assert calls.judged(5 + 8192) is None
    calls.judge(5 + 8192, 9)
    calls.judge(5, 7)  # a slow one's word comes late
    assert (calls.judged(5), calls.judged(5 + 8192)) == (None, 9)
    calls.judge(8192, 3)
    calls.judge(0)  # that of a request without a number
    assert calls.judged(8192) == 3


def test_a_call_whose_place_was_taken_counts_until_it_is_answered(place: Place) -> None:
    def steps() -> None:
        for call in range(1, 1001):
            place.enter(call)
        first = len(place.inside)
        for call in range(1, first + 1):
            place.calls.judge(call + 8192, 10)
        place.shedder._look()
        assert len(place.inside) == first
        for call in range(1, first + 1):
            place.shedder.answered(call)
        place.shedder._look()
        assert len(place.inside) == 2 * first
        assert len(place.shedder._inside) == first

    ran(steps)


@pytest.mark.parametrize(
    ("sent", "call"), [("12", 12), ("x", 0), (12, 0), (None, 0), ("9" * 30, 0), ("²", 0), ("-1", 0)]
)
def test_only_numbers_are_numbers(sent: object, call: int) -> None:
    assert number(sent) == call
