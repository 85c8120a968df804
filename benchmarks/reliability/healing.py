"""How long a model is away when one of its steps is killed, stopped, hangs or takes all memory.

    python -m benchmarks.reliability.healing .demo/repository spam pii

Every fault meets every step of every model, while hardly anybody asks and under load. A caller of each
model sends a request every 50 ms, with a deadline of five seconds; a model was away from the fault until the first
answer to a request that was sent after the last one that failed.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import tritonclient.grpc as triton
from rich.console import Console
from rich.table import Table

from benchmarks.reliability.faults import KINDS, Faults
from benchmarks.report import write
from benchmarks.serving import Running, serving
from tritext.naming import ROLES, step_name
from tritext.repository import committed

DEADLINE: Final = 5.0  # seconds for each request
TEXT: Final = "Does this server answer? It should, in a moment, whatever happens to one of its processes."
EVERY: Final = 0.05  # seconds between two requests of a caller
QUIET: Final = 1.0  # seconds without an error after which a model is back
GIVE_UP: Final = 60.0
_STEP_GB: Final = 2.0
LOAD: Final = 8  # further callers of each model under load, who ask as fast as answers come


@dataclass(slots=True)
class Asked:
    """One request: when it was sent, when it was answered, and what went wrong."""

    sent: float
    answered: float = 0.0
    error: str = ""


class Caller:
    """Sends `model` a request every `pause` seconds, whatever has become of those before."""

    def __init__(self, url: str, model: str, pause: float) -> None:
        self.asked: list[Asked] = []
        self._url, self._model, self._pause = url, model, pause
        self.stopping = threading.Event()

    def run(self) -> None:
        """Until it is stopped."""
        client: Any = triton.InferenceServerClient(self._url)
        tensor = text_tensor()
        while not self.stopping.wait(self._pause):
            asked = Asked(time.monotonic())
            self.asked.append(asked)
            client.async_infer(self._model, [tensor], partial(note, asked), client_timeout=DEADLINE)
        time.sleep(DEADLINE)
        client.close()


def note(asked: Asked, result: object, error: Any) -> None:
    """Called by the client when the request is over."""
    del result
    asked.error = f"{error.status()} {error.message()}" if error else ""
    asked.answered = time.monotonic()


class Presser(Caller):
    """Asks as fast as answers come, and pauses after an error as clients should."""

    def run(self) -> None:
        """Until it is stopped."""
        client: Any = triton.InferenceServerClient(self._url)
        tensor = text_tensor()
        while not self.stopping.is_set():
            asked = Asked(time.monotonic())
            self.asked.append(asked)
            try:
                client.infer(self._model, [tensor], client_timeout=DEADLINE)
            except triton.InferenceServerException as failure:
                note(asked, None, failure)
                self.stopping.wait(self._pause)
            asked.answered = time.monotonic()
        client.close()


def text_tensor() -> Any:
    """The input of every request."""
    tensor = triton.InferInput("TEXT", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[TEXT.encode()]], dtype=np.object_))
    return tensor


@contextmanager
def calling(url: str, models: list[str], load: int) -> Iterator[dict[str, list[Caller]]]:
    """One caller of each model that sends twenty requests a second, and `load` more that press."""
    callers = {
        model: [Caller(url, model, EVERY), *(Presser(url, model, EVERY) for _ in range(load))] for model in models
    }
    threads = [threading.Thread(target=each.run) for group in callers.values() for each in group]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        for group in callers.values():
            for each in group:
                each.stopping.set()
        for thread in threads:
            thread.join()


def away(caller: Caller, since: float) -> float | None:
    """Seconds from `since` until the first answer to a request that was sent after the last that failed.

    0 where none failed, None where it is not sure yet.
    """
    asked = [each for each in list(caller.asked) if each.sent >= since - DEADLINE]
    failed = [each for each in asked if each.error and each.answered >= since]
    last = max((each.sent for each in failed), default=since)
    good = [each for each in asked if each.answered and not each.error and each.sent > last]
    pending = [each for each in asked if not each.answered and each.sent < time.monotonic() - QUIET / 2]
    if pending or not good or time.monotonic() < min(each.sent for each in good) + QUIET:
        return None
    return min(each.answered for each in good) - since if failed else 0.0


def one(served: Running, faults: Faults, step: str, kind: str, callers: dict[str, list[Caller]], model: str) -> Any:
    """Inflict `kind` on `step` and wait until `model` is back."""
    time.sleep(QUIET)
    begun, server = time.monotonic(), served.triton_now()
    faults.inflict(kind, step, server)
    gone = None
    while time.monotonic() < begun + GIVE_UP:
        time.sleep(0.1)
        gone = away(callers[model][0], begun)
        if gone and is_ready(served.ready):
            break
        if gone == 0.0 and time.monotonic() > begun + 2 * DEADLINE:
            break  # nobody was harmed
    mine = [each for caller in callers[model] for each in caller.asked if each.sent >= begun - 0.5 and each.answered]
    others = [
        each
        for name, group in callers.items()
        for caller in group
        for each in caller.asked
        if name != model and each.sent >= begun and each.answered
    ]
    return {
        "model": model,
        "step": step,
        "fault": kind,
        "away_s": None if gone is None else round(gone, 2),
        "errors": sum(bool(each.error) for each in mine),
        "kinds_of_error": sorted({each.error.split(" ")[0] for each in mine if each.error}),
        "slowest_answer_s": round(max(each.answered - each.sent for each in mine), 2),
        "triton_restarted": served.triton_now() != server,
        "errors_of_others": sum(bool(each.error) for each in others),
        "slowest_of_others_s": round(max((each.answered - each.sent for each in others), default=0.0), 2),
    }


def is_ready(url: str) -> bool:
    """What the supervisor says of all models."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - our own child
            return bool(answer.status == 200)
    except OSError:
        return False


def segments(triton_pid: int) -> int:
    """Pieces of shared memory of a running server."""
    maps = Path("/proc", str(triton_pid), "cmdline").read_bytes().split(b"\0")
    prefix = next(part for part in maps if b"shm-region-prefix-name=" in part).rpartition(b"=")[2].decode()
    return len(list(Path("/dev/shm").glob(f"{prefix}*")))  # noqa: S108


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--faults", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    rows, before, after = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        faults = Faults(arguments.repository, Path(folder))
        with serving(faults.repository, arguments.models, "--step-memory", str(_STEP_GB)) as served:
            before = segments(served.triton)
            for load in (0, LOAD):
                with calling(served.grpc, arguments.models, load) as callers:
                    for kind, role, model in itertools.product(arguments.faults, ROLES, arguments.models):
                        found = committed(faults.repository, model)
                        step = step_name(model, role, found.build if found else "")
                        rows.append({"load": load, "role": role, **one(served, faults, step, kind, callers, model)})
                        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            time.sleep(15)
            after = segments(served.triton_now())
    report(rows, before, after, arguments)


def report(rows: list[dict[str, Any]], before: int, after: int, arguments: argparse.Namespace) -> None:
    """Print a table and keep the figures."""
    times = [row["away_s"] if row["away_s"] is not None else GIVE_UP for row in rows]
    table = Table("load", "model", "step", "fault", "away s", "errors", "slowest s", "others: errors", "slowest s")
    for row in rows:
        table.add_row(*(str(row[key]) for key in (
            "load", "model", "role", "fault", "away_s", "errors", "slowest_answer_s", "errors_of_others",
            "slowest_of_others_s",
        )))  # fmt: skip
    Console().print(table)
    summary = {
        "away_s_median": round(statistics.median(times), 2),
        "away_s_worst": max(times),
        "slowest_answer_s": max(row["slowest_answer_s"] for row in rows),
        "triton_restarted": sum(row["triton_restarted"] for row in rows),
        "errors_of_others": sum(row["errors_of_others"] for row in rows),
        "segments_before": before,
        "segments_after": after,
    }
    print(json.dumps(summary))
    command = f"python -m benchmarks.reliability.healing .demo/repository {' '.join(arguments.models)}"
    write("reliability-healing", command, {"summary": summary, "faults": rows})


if __name__ == "__main__":
    main()
