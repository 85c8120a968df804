"""From rounds to figures: medians, percentiles, ratios within a run, and how they stand to what was aimed at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.catalogue import DEFAULT
from benchmarks.peers.measure import Entrant, Load

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


def figures(entrant: Entrant, load: Load) -> Figures:
    """What all rounds together show."""
    rounds = entrant.rounds[load]
    tokens = [each.tokens_per_second for each in rounds]
    latencies = np.concatenate(entrant.latencies[load])
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


def best(entrant: Entrant) -> Load:
    """The closed loop in which it answers most tokens a second."""
    closed = [load for load in entrant.rounds if load.loop == "closed"]
    return max(closed, key=lambda load: median(each.tokens_per_second for each in entrant.rounds[load]))


def speed(entrant: Entrant) -> list[float]:
    """Tokens a second of each round, at its best load."""
    return [each.tokens_per_second for each in entrant.rounds[best(entrant)]]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what slows the machine for a while meets both sides of one."""
    return median(our / their if their else float("inf") for our, their in zip(ours, theirs, strict=True))


def fastest(entrants: Sequence[Entrant]) -> Entrant:
    """The one with most tokens a second."""
    return max(entrants, key=lambda entrant: median(speed(entrant)))


def verdicts(entrants: Mapping[str, Entrant], checkpoint: str) -> dict[str, Any]:
    """The ratios that the comparison is about, with what was aimed at; those whose servers took part."""
    ours = [entrant for entrant in entrants.values() if entrant.peer.is_ours]
    peers = [entrant for entrant in entrants.values() if not entrant.peer.is_ours]
    like = [entrant for entrant in peers if entrant.peer.family == "like for like"]
    found: dict[str, Any] = {}
    if DEFAULT in entrants and "fastapi" in entrants:
        found["default against FastAPI + pipeline"] = _verdict(entrants[DEFAULT], entrants["fastapi"], AIMS[checkpoint])
    for precision in sorted({str(entrant.peer.precision) for entrant in like}):
        same = [entrant for entrant in ours if entrant.peer.precision == precision]
        if same:
            rival = fastest([entrant for entrant in like if entrant.peer.precision == precision])
            found[f"{precision} against the best peer in {precision}"] = _verdict(same[0], rival, AIM_LIKE_FOR_LIKE)
    if ours and peers:
        found["best against best"] = _verdict(fastest(ours), fastest(peers), None)
    return found


def _verdict(ours: Entrant, theirs: Entrant, aim: float | None) -> dict[str, Any]:
    value = ratio(speed(ours), speed(theirs))
    met = None if aim is None else value >= aim
    return {"tritext": ours.peer.name, "peer": theirs.peer.name, "ratio": round(value, 2), "aim": aim, "met": met}


def at_rates(entrants: Mapping[str, Entrant]) -> list[dict[str, Any]]:
    """Every rate at which a peer was asked and which it carried: its latencies and those of the default tritext."""
    rows: list[dict[str, Any]] = []
    default = entrants.get(DEFAULT)
    for entrant in entrants.values():
        for load in sorted(load for load in entrant.rounds if load.loop == "open"):
            theirs = figures(entrant, load)
            carried = not theirs.failed and theirs.texts_per_second >= CARRIED * load.level
            if default is None or entrant.peer.is_ours or not carried or load not in default.rounds:
                continue
            ours = figures(default, load)
            better = None if ours.p99 is None or theirs.p99 is None else ours.p99 < theirs.p99
            row = {"peer": entrant.peer.name, "rate": load.level, "p50": theirs.p50, "p99": theirs.p99}
            rows.append({**row, "tritext_p50": ours.p50, "tritext_p99": ours.p99, "tritext_better": better})
    return rows
