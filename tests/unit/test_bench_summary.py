"""What the figures of a run mean, on runs whose figures can be worked out by hand."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tritext.bench.load import Run
from tritext.bench.measure import Closed, Measured
from tritext.bench.summary import summary

# 200 requests a second for 12 seconds, the first two of them warm-up; the n-th takes n % 100 + 1 milliseconds.
DUE = np.arange(2400) / 200


def run(errors: dict[int, str] | None = None, **changed: Any) -> Run:
    index = np.arange(2400)
    ended = DUE + (index % 100 + 1) / 1000
    made = Run(index, DUE, DUE, ended, errors or {}, begin=2.0, end=12.0, cpu_seconds=1.0)
    return replace(made, **changed)


def failing(indices: Sequence[int], kind: str = "UNAVAILABLE") -> dict[int, str]:
    return dict.fromkeys(indices, kind)


def test_percentiles_are_of_the_requests_that_were_due_in_the_window() -> None:
    slow_start = run(ended=np.where(DUE < 2.0, DUE + 1.0, run().ended))
    for figures in (summary(run(), [1], [10]), summary(slow_start, [1], [10])):
        assert (figures.p50, figures.p90, figures.p99) == pytest.approx((50, 90, 99))
        assert (figures.mean, figures.max) == pytest.approx((50.5, 100))
        assert figures.failed == {}


def test_throughput_counts_texts_and_tokens_of_what_was_answered_in_the_window() -> None:
    figures = summary(run(), [1, 3], [10, 90])
    assert figures.requests_per_second == pytest.approx(200, abs=1)
    assert figures.texts_per_second == pytest.approx(400, abs=2)
    assert figures.tokens_per_second == pytest.approx(200 * 50, abs=100)


def test_tokens_that_nobody_could_count_are_no_number() -> None:
    figures = summary(run(), [1], [math.nan])
    assert math.isnan(figures.tokens_per_second)
    assert figures.texts_per_second == pytest.approx(200, abs=1)
    shown = Measured(Closed(1), figures, None).as_dict()
    assert (shown["tokens_per_second"], shown["requests_per_second"]) == (None, figures.requests_per_second)
    json.dumps(shown, allow_nan=False)


def test_failures_reach_percentiles_and_are_no_throughput() -> None:
    some = summary(run(failing(range(0, 2400, 20))), [1], [10])  # 5 %
    assert some.p90 is not None
    assert some.p99 is None
    assert some.failed == {"UNAVAILABLE": 100}
    assert some.requests_per_second == pytest.approx(190, abs=1)
    none = summary(run(failing(range(2400))), [1], [10])
    assert (none.p50, none.mean, none.max, none.requests_per_second) == (None, None, None, 0.0)


def test_a_quick_failure_makes_no_percentile_better() -> None:
    quick = run(failing(range(0, 2400, 100)))  # those that took 1 ms: 1 %
    assert summary(quick, [1], [10]).p50 == pytest.approx(51)


def test_refusals_are_counted_apart() -> None:
    figures = summary(run(failing(range(0, 2400, 20), "refused")), [1], [10])  # those that took 1, 21, 41, … ms
    assert (figures.refused, figures.failed) == (100, {})
    assert figures.refused_p99 == pytest.approx(81)
    assert figures.p99 == pytest.approx(99, abs=1.5)
    assert figures.requests_per_second == pytest.approx(190, abs=1)


def test_failures_while_warming_up_do_not_count() -> None:
    assert summary(run(failing(range(100))), [1], [10]).failed == {}


def test_what_the_generator_itself_costs_and_how_late_it_is() -> None:
    figures = summary(run(), [1], [10])
    assert (figures.generator_cores, figures.generator_cpu_ms_per_request) == pytest.approx((0.1, 0.5))
    assert figures.late_p99 == 0
    late = summary(run(sent=DUE + 0.003), [1], [10])
    assert late.late_p99 == pytest.approx(3)
    assert late.p50 == pytest.approx(50)  # the latency counts from when it was due, as before


def test_an_empty_window_has_no_percentiles() -> None:
    nothing = np.array([])
    empty = run(index=nothing.astype(int), due=nothing, sent=nothing, ended=nothing)
    figures = summary(empty, [1], [10])
    assert (figures.requests, figures.p50, figures.generator_cpu_ms_per_request) == (0, None, None)
