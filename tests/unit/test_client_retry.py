"""How long a request's patience lasts, by a clock of the test's own."""

from collections.abc import Callable
from typing import Any

import pytest

from clocks import Clock
from tritext.client.retry import Patience, Refusal

REFUSAL = Refusal(hint=1.0)


class Future:
    """gRPC's, of a request that the test answers."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def arrive(self) -> None:
        for callback in self._callbacks:
            callback(self)


def sent(patience: Patience) -> Future:
    future = Future()
    patience.watch(future)
    return future


@pytest.mark.parametrize(("is_own", "left"), [(True, 8.0), (False, 0.0)])
def test_the_time_for_which_a_refusal_is_not_read_counts_only_against_a_calls_deadline(
    clock: Clock, is_own: bool, left: float
) -> None:
    patience = Patience(clock.now + 10, None, is_own=is_own)
    first = sent(patience)
    clock.now += 2
    first.arrive()
    clock.now += 100
    assert (patience.wait(REFUSAL) is not None) is is_own
    assert patience.left == left
    assert (patience.wait(REFUSAL) is not None) is is_own
    assert patience.left == left, "what was read once is not read again"


def test_only_the_last_try_is_watched(clock: Clock) -> None:
    patience = Patience(clock.now + 10, None, is_own=True)
    first, second = sent(patience), sent(patience)
    clock.now += 1
    first.arrive()
    clock.now += 2
    second.arrive()
    clock.now += 4
    assert patience.wait(REFUSAL) is not None
    assert patience.left == 7.0


def test_an_answer_that_is_on_its_way_has_no_more_time(clock: Clock) -> None:
    patience = Patience(clock.now + 10, None, is_own=True)
    sent(patience)
    clock.now += 9.5
    assert patience.wait(REFUSAL) is None
    assert patience.left == 0.5


def test_time_that_is_given_back_is_no_further_try(clock: Clock) -> None:
    patience = Patience(clock.now + 10, 1, is_own=True)
    for is_tried in (True, False):
        sent(patience).arrive()
        clock.now += 100
        assert (patience.wait(REFUSAL) is not None) is is_tried
