"""What processes of this machine have started and used. One that has ended meanwhile has none and used nothing."""

import contextlib
import os
from pathlib import Path
from typing import Final

from tritext.serve.steps import children

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def family(pid: int) -> list[int]:
    """`pid` and all its descendants, parents first."""
    found = [pid]
    for each in found:
        found += sorted(children(each))
    return found


def processor_seconds(pid: int) -> float:
    """That it has used, user and system."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS  # proc_pid_stat(5), fields 14 and 15
    return 0.0


def resident(pid: int) -> float:
    """MB of it that are in memory, those that it shares with others included."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE / 1e6
    return 0.0


def mebibytes(pid: int, kinds: str) -> float:
    """Of its memory what is ``Pss:`` (of shared pages its part) or ``Private_``, as proc_pid_smaps(5) has it."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(kinds)) / 1024
    return 0.0
