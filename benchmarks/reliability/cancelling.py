"""Callers that give up within milliseconds, beside patient ones whose every answer is checked.

    python -m benchmarks.reliability.cancelling .demo/repository spam --impatient 4 --seconds 60 [--without-fence]

What is counted: the patient callers' answers, wrong ones, errors by kind, and answers that never came; calls that were
cancelled; whether Triton died, which `tritext serve` then starts again.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from benchmarks.report import write
from benchmarks.serving import serving
from benchmarks.sharing import requests
from tritext.bench import load
from tritext.bench.load import Failed
from tritext.bench.served import Sender, Served
from tritext.bench.traffic import Traffic
from tritext.errors import ServerFault

PATIENT: Final = 8
PATIENCE: Final = 30.0  # seconds
_AFTER: Final = 0.03  # seconds within which the impatient give up
_CALLS: Final = 20  # of an impatient caller before its connection is closed


async def patient(served: Served, sent: Traffic, end: float, seen: Counter[str]) -> None:
    """Ask one request after the other, and read every answer."""
    async with Sender(served, sent) as sender:
        index = 0
        while time.monotonic() < end:
            index += 61  # a Sender keeps one answer of so many
            try:
                await sender.send(index)
                served.check(sent, {index: sender.kept.pop(index)})
                seen["answered"] += 1
            except Failed as error:
                seen[f"patient: {error}"] += 1
                await asyncio.sleep(0.1)
            except ServerFault as error:
                seen["answered wrongly"] += 1
                print(error, file=sys.stderr)


async def impatient(served: Served, sent: Traffic, end: float, seen: Counter[str], seed: int) -> None:
    """Ask, and cancel, mostly before there is an answer; and close the connection now and then."""
    chance = random.Random(seed)  # noqa: S311 - times, not secrets
    while time.monotonic() < end:
        async with Sender(served, sent) as sender:
            for _ in range(_CALLS):
                try:
                    await asyncio.wait_for(sender.send(chance.randrange(1, 61)), chance.random() * _AFTER)
                except TimeoutError:
                    seen["cancelled"] += 1
                except Failed as error:
                    seen[f"impatient: {error}"] += 1
                    await asyncio.sleep(0.01)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("model")
    parser.add_argument("--impatient", type=int, default=4, help="callers that give up")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--without-fence", action="store_true", help="serve with --no-grpc-fence")
    arguments = parser.parse_args()
    options = ["--no-grpc-fence"] if arguments.without_fence else []
    seen: Counter[str] = Counter()

    async def all_at_once(served: Served, sent: Traffic) -> None:
        end = time.monotonic() + arguments.seconds
        await asyncio.gather(
            *(patient(served, sent, end, seen) for _ in range(PATIENT)),
            *(impatient(served, sent, end, seen, seed) for seed in range(arguments.impatient)),
        )

    with serving(arguments.repository, [arguments.model], *options) as server:
        served = Served(server.grpc, arguments.model, PATIENCE)
        load.run(all_at_once(served, requests(served)))
        seen["Triton died"] = int(not Path("/proc", str(server.triton)).exists())
    summary = {"impatient": arguments.impatient, "seconds": arguments.seconds, **dict(seen)}
    print(json.dumps(summary))
    command = f"python -m benchmarks.reliability.cancelling REPOSITORY {arguments.model}"
    flags = f"--impatient {arguments.impatient} --seconds {arguments.seconds:g}"
    name = f"cancelling-{arguments.impatient}"
    if arguments.without_fence:
        flags, name = f"{flags} --without-fence", f"{name}-without-fence"
    write(name, f"{command} {flags}", {"summary": summary})


if __name__ == "__main__":
    main()
