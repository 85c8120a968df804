import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.peers.processes import Running, ServerFailed

# A server with a child of its own, in a session of its own, that is busy.
BUSY = "while True: pass"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BUSY!r}], start_new_session=True)"


def start(code: str, log: Path) -> Running:
    return Running([sys.executable, "-c", code], log, os.environ)


def until(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_child_s_time_counts_it_stands_still_when_paused_and_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    with start(PARENT, tmp_path / "log") as running:
        until(lambda: len(running.pids()) == 2 and running.cpu_seconds() > 0.2)
        pids = running.pids()
        running.pause()
        stood = running.cpu_seconds()
        time.sleep(0.3)
        assert running.cpu_seconds() == stood
        running.resume()
        until(lambda: running.cpu_seconds() > stood)

    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_server_that_ends_by_itself_says_why(tmp_path: Path) -> None:
    with start("raise SystemExit('the model is not there')", tmp_path / "log") as running:
        until(lambda: not running.pids() or running._popen.poll() is not None)
        with pytest.raises(ServerFailed, match="status 1: the model is not there"):
            running.raise_if_ended()
