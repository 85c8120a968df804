"""Processes of steps as /proc shows them."""

import subprocess
import sys
from textwrap import dedent

# As process 1 of a container: becomes the parent of whom a child of its own leaves behind.
PROGRAM = """
    import ctypes, os, subprocess, time
    from pathlib import Path
    from tritext.serve.steps import reap

    def ended():
        ps = subprocess.run(["ps", "--no-headers", "-o", "stat", "--ppid", str(os.getpid())],
                            capture_output=True, text=True)  # waited for: it is a child of ours too
        return sum(state.startswith("Z") for state in ps.stdout.split())

    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    other = subprocess.Popen(["true"], start_new_session=True)
    triton = subprocess.Popen(["sh", "-c", "sleep 0.1 & sleep 0.1 & exit"], start_new_session=True)
    triton.wait()
    deadline = time.monotonic() + 20
    while ended() < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    before = ended()
    reap(triton.pid)
    print(before, ended(), other.wait())
"""


def test_who_is_left_behind_is_taken_leave_of_and_nobody_else() -> None:
    done = subprocess.run([sys.executable, "-c", dedent(PROGRAM)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", "1", "0"]  # the other child is still there for whoever started it
