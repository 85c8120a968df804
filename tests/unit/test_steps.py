"""Processes of steps as /proc shows them."""

import subprocess
import sys
from textwrap import dedent

# As process 1 of a container: becomes the parent of whom a child of its own leaves behind.
PROGRAM = """
    import ctypes, os, subprocess, time
    from pathlib import Path
    from tritext.serve.steps import reap

    def children():
        return [line.split() for line in os.popen(f"ps --no-headers -o pid,stat --ppid {os.getpid()}")
                if "Z" in line.split()[1]]

    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    other = subprocess.Popen(["true"], start_new_session=True)
    triton = subprocess.Popen(["sh", "-c", "sleep 0.1 & sleep 0.1 & exit"], start_new_session=True)
    triton.wait()
    deadline = time.monotonic() + 20
    while len(children()) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    before = len(children())
    reap(triton.pid)
    print(before, len(children()), other.wait())
"""


def test_who_is_left_behind_is_taken_leave_of_and_nobody_else() -> None:
    done = subprocess.run([sys.executable, "-c", dedent(PROGRAM)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "1", "0"]  # the other child is still there for whoever started it
