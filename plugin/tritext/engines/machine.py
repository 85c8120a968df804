"""What the machine that serves has: instruction sets and cores. Nothing here is known when a model is built."""

import contextlib
import math
import os
import platform
from functools import cache
from pathlib import Path
from typing import Final

from tritext.engines.base import Precision

_CPUINFO: Final = Path("/proc/cpuinfo")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_QUOTAS: Final = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))  # of version 2, and of 1

# Any one of these flags (x86-64, then Arm) is enough. Without them int8 products saturate on older x86, so answers
# would be wrong and not only slow, and bf16 is computed in fp32 with no gain.
_FLAGS: Final[dict[Precision, tuple[str, ...]]] = {
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp"),
}

_CORES_A_CALL: Final = 8  # a call of some 512 tokens has no work for many more

THREADS: Final = "TRITEXT_THREADS"  # environment: how many threads each encoder may use; `serve --threads` sets it


@cache
def processor_flags() -> frozenset[str]:
    """The processor's features as Linux names them; none where that cannot be read."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(line.partition(":")[2].split())


def processor_lacks(precision: Precision) -> str | None:
    """The instructions that `precision` needs and this processor has not, in words; None where it has them."""
    wanted = _FLAGS.get(precision, ())
    if not wanted or processor_flags() & set(wanted):
        return None
    return f"this processor ({platform.machine()}) has none of {', '.join(wanted)}"


def usable_cores() -> int:
    """How many cores this process may keep busy: its affinity, and the quota of its control group."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, math.ceil(_quota() or cores)))


def _quota() -> float | None:
    """The cores that the control group allows, by the files of version 2 or 1; None where it sets no limit."""
    for files in _QUOTAS:
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):  # no such control group, or "max"
            quota, period = " ".join([(_CGROUPS / file).read_text(encoding="ascii") for file in files]).split()
            if (allowed := int(quota) / int(period)) > 0:  # version 1 says -1
                return allowed
    return None


def streams() -> int:
    """How many calls an engine should run side by side: with many cores, several do more than one on all of them."""
    return max(1, (threads() or usable_cores()) // _CORES_A_CALL)


def threads() -> int | None:
    """How many threads an encoder should run; None where its engine knows best: all cores are ours."""
    try:
        asked = int(os.environ.get(THREADS, "0"))
    except ValueError:
        asked = 0
    cores = usable_cores()
    if asked > 0:
        return asked
    return cores if cores < (os.cpu_count() or 1) else None
