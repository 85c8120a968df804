"""Who is asked and says nothing: what hangs is told from what is given no processor."""

import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tritext.serve import probe
from tritext.serve.probe import Probe
from tritext.serve.remote import Silence
from tritext.serve.steps import StepProcess

STEP = "model_encoder_00000000"
BUSY = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); print(flush=True)\nwhile True: pass"
ASLEEP = "import time; print(flush=True); time.sleep(1000)"


class Mute:
    """A server that takes what it is asked, waits as long as the caller does, and finishes nothing."""

    def calls(self, step: str) -> int:
        assert step == STEP
        return 7

    def infer(self, step: str, arrays: Any, timeout: float) -> None:
        del step, arrays
        time.sleep(timeout)
        raise Silence("no answer")


def running(program: str, count: int) -> list[subprocess.Popen[bytes]]:
    found = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(count)]
    for each in found:
        assert each.stdout is not None
        each.stdout.readline()  # it is at it
    return found


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for each in started:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


def is_silent(process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> bool:
    """What a probe says of a step with this process."""
    monkeypatch.setattr(probe, "step_processes", lambda _: [StepProcess(process.pid, STEP, "")])
    asking = object.__new__(Probe)
    server: Any = SimpleNamespace(remote=Mute(), segments="")
    asking._server = server
    return asking._is_silent(STEP, {})


def test_who_waits_for_a_processor_does_not_hang(
    processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes += running(BUSY, 4)
    assert not is_silent(processes[0], monkeypatch)


def test_who_sleeps_hangs(processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch) -> None:
    processes += running(ASLEEP, 1)
    assert is_silent(processes[0], monkeypatch)


def test_time_that_was_waited_counts_as_wanted(processes: list[subprocess.Popen[bytes]]) -> None:
    processes += running(BUSY, 4)
    step = StepProcess(processes[0].pid, STEP, "")
    [before], took = step.wanted().values(), step.seconds
    time.sleep(1)
    [after] = step.wanted().values()
    assert after - before > 2 * (step.seconds - took)  # four share a processor
    processes[0].kill()
    processes[0].wait()
    assert step.wanted() == {}
