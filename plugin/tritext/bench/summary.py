"""The figures of a run: throughput, latency, failures, and what the load generator itself cost."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tritext.bench.load import Run

PERCENTILES: Final = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the measured window. Times are milliseconds and rates are per second.

    Percentiles are over all requests that were due in the window and not refused, where one that failed never ended:
    None is a percentile that failures reach. ``mean`` and ``max`` are over those that were answered. Throughput counts
    the answers that came in the window, with their texts and their real tokens (padding does not count); NaN are tokens
    that nobody could count.

    ``failed`` counts by kind; ``refused`` are those that the server refused for now, which is no failure, and
    ``refused_p99`` is how long they waited to hear it. ``generator_cores`` is this process's CPU time over the window,
    in cores; ``late_p99``, how long after its time a request was sent, says whether the generator kept up.
    """

    seconds: float
    requests: int
    requests_per_second: float
    texts_per_second: float
    tokens_per_second: float
    p50: float | None
    p90: float | None
    p99: float | None
    mean: float | None
    max: float | None
    failed: dict[str, int]
    generator_cpu_seconds: float
    generator_cores: float
    generator_cpu_ms_per_request: float | None
    late_p99: float | None
    refused: int = 0
    refused_p99: float | None = None


def summary(run: Run, texts: Sequence[int], tokens: Sequence[float]) -> Summary:
    """The figures of `run`, whose request i carries ``texts[i % len]`` texts of ``tokens[i % len]`` tokens together."""
    answered = run.index[run.answered] % len(texts)
    latencies = run.latencies
    ended = latencies[np.isfinite(latencies)]
    measured = run.measured
    p50, p90, p99 = (_percentile(latencies, percentile) for percentile in PERCENTILES)
    sent = int(((run.sent >= run.begin) & (run.sent < run.end)).sum())
    return Summary(
        seconds=run.seconds,
        requests=int(measured.sum()),
        requests_per_second=len(answered) / run.seconds,
        texts_per_second=float(np.asarray(texts)[answered].sum() / run.seconds),
        tokens_per_second=float(np.asarray(tokens)[answered].sum() / run.seconds),
        p50=p50,
        p90=p90,
        p99=p99,
        mean=1e3 * float(ended.mean()) if len(ended) else None,
        max=1e3 * float(ended.max()) if len(ended) else None,
        failed=dict(Counter(run.errors[index] for index in run.index[measured & run.failed & ~run.refused].tolist())),
        refused=len(run.refusals),
        refused_p99=_percentile(run.refusals, 99),
        generator_cpu_seconds=run.cpu_seconds,
        generator_cores=run.cpu_seconds / run.seconds,
        generator_cpu_ms_per_request=1e3 * run.cpu_seconds / sent if sent else None,
        late_p99=_percentile((run.sent - run.due)[measured], 99),
    )


def _percentile(seconds: "np.ndarray[tuple[int], np.dtype[np.float64]]", percentile: int) -> float | None:
    """Milliseconds that at least `percentile` % of the requests took at most; never a mean of two requests."""
    if not len(seconds):
        return None
    value = float(np.percentile(seconds, percentile, method="inverted_cdf"))
    return 1e3 * value if np.isfinite(value) else None
