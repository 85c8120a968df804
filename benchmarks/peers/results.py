"""From rounds to figures: medians, percentiles, ratios within a run, and how they stand to what was aimed at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.catalogue import DEFAULT
from benchmarks.peers.measure import Load, Record

# What tritext is to be to the pipeline behind FastAPI, and to the best peer of its own precision.
AIMS: Final = {"bert-base": 10.0, "minilm": 5.0}
AIM_LIKE_FOR_LIKE: Final = 1.5
CARRIED: Final = 0.95  # of the rate that was asked


@dataclass(frozen=True)
class Figures:
    """One server under one load. Rates are medians of the rounds, latencies (ms) are of all rounds' requests together.

    A percentile that failures reach is None. ``generator_cores`` is what the load generator took of the machine.
    """

    tokens_per_second: float
    tokens_per_second_min: float
    tokens_per_second_max: float
    texts_per_second: float
    p50: float | None
    p99: float | None
    requests: int
    failed: int
    generator_cores: float
    rounds: int


def figures(record: Record, load: Load) -> Figures:
    """What all rounds together show."""
    rounds = record.rounds[load]
    tokens = [each.tokens_per_second for each in rounds]
    latencies = np.concatenate(record.latencies[load])
    return Figures(
        tokens_per_second=median(tokens),
        tokens_per_second_min=min(tokens),
        tokens_per_second_max=max(tokens),
        texts_per_second=median(each.texts_per_second for each in rounds),
        p50=percentile(latencies, 50),
        p99=percentile(latencies, 99),
        requests=len(latencies),
        failed=sum(sum(each.failed.values()) for each in rounds),
        generator_cores=median(each.generator_cores for each in rounds),
        rounds=len(rounds),
    )


def percentile(seconds: NDArray[np.float64], percent: float) -> float | None:
    """Milliseconds that `percent` of the requests took at most; None where that is one that failed."""
    if not len(seconds):
        return None
    value = float(np.percentile(seconds, percent, method="inverted_cdf"))
    return 1e3 * value if np.isfinite(value) else None


def best(record: Record) -> Load:
    """The closed loop in which it answers most tokens a second."""
    closed = [load for load in record.rounds if load.loop == "closed"]
    return max(closed, key=lambda load: median(each.tokens_per_second for each in record.rounds[load]))


def speed(record: Record) -> list[float]:
    """Tokens a second of each round, at its best load."""
    return [each.tokens_per_second for each in record.rounds[best(record)]]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what slows the machine for a while meets both sides of one."""
    return median(our / their if their else float("inf") for our, their in zip(ours, theirs, strict=True))


def fastest(records: Sequence[Record]) -> Record:
    """The one with most tokens a second."""
    return max(records, key=lambda record: median(speed(record)))


def verdicts(records: Mapping[str, Record], checkpoint: str) -> dict[str, Any]:
    """The ratios that the comparison is about, with what was aimed at; those whose servers took part."""
    ours = [record for record in records.values() if record.peer.is_ours]
    peers = [record for record in records.values() if not record.peer.is_ours]
    like = [record for record in peers if record.peer.family == "like for like"]
    found: dict[str, Any] = {}
    if DEFAULT in records and "fastapi" in records:
        found["default against FastAPI + pipeline"] = _verdict(records[DEFAULT], records["fastapi"], AIMS[checkpoint])
    for precision in sorted({str(record.peer.precision) for record in like}):
        same = [record for record in ours if record.peer.precision == precision]
        if same:
            rival = fastest([record for record in like if record.peer.precision == precision])
            found[f"{precision} against the best peer in {precision}"] = _verdict(same[0], rival, AIM_LIKE_FOR_LIKE)
    if ours and peers:
        found["best against best"] = _verdict(fastest(ours), fastest(peers), None)
    return found


def _verdict(ours: Record, theirs: Record, aim: float | None) -> dict[str, Any]:
    value = ratio(speed(ours), speed(theirs))
    met = None if aim is None else value >= aim
    return {"tritext": ours.peer.name, "peer": theirs.peer.name, "ratio": round(value, 2), "aim": aim, "met": met}


def ceiling(records: Mapping[str, Record], alone: Sequence[float]) -> dict[str, Any]:
    """What no server around the default tritext's engine can exceed: its speed `alone`, and that ÷ each peer's.

    `alone` are tokens a second on full calls, one for each round of the closed loops.
    """
    return {
        "tokens_per_second": median(alone),
        "times": {name: round(ratio(alone, speed(each)), 2) for name, each in records.items() if not each.peer.is_ours},
    }


def at_rates(records: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Every rate at which a peer was asked and which it carried: its latencies and those of the default tritext."""
    rows: list[dict[str, Any]] = []
    default = records.get(DEFAULT)
    for record in records.values():
        for load in sorted(load for load in record.rounds if load.loop == "open"):
            theirs = figures(record, load)
            carried = not theirs.failed and theirs.texts_per_second >= CARRIED * load.level
            if default is None or record.peer.is_ours or not carried or load not in default.rounds:
                continue
            ours = figures(default, load)
            better = None if ours.p99 is None or theirs.p99 is None else ours.p99 < theirs.p99
            row = {"peer": record.peer.name, "rate": load.level, "p50": theirs.p50, "p99": theirs.p99}
            rows.append({**row, "tritext_p50": ours.p50, "tritext_p99": ours.p99, "tritext_better": better})
    return rows
