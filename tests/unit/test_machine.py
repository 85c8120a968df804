"""What is known of the machine that serves: instructions, cores, threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tritext.engines import machine
from tritext.engines.machine import THREADS, processor_flags, processor_lacks, streams, threads, usable_cores

X86 = "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu sse2 avx512f avx512_vnni\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp bf16 i8mm\n"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No control group and no choice of the user's, unless a test makes one; nothing remembered."""
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    monkeypatch.delenv(THREADS, raising=False)
    processor_flags.cache_clear()
    yield
    processor_flags.cache_clear()


def with_cores(monkeypatch: pytest.MonkeyPatch, usable: int, there: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(usable)))
    monkeypatch.setattr(os, "cpu_count", lambda: there)


# --- instructions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpuinfo", "lacking"),
    [(X86, {"bf16"}), (ARM, set()), (X86.replace("avx512_vnni", "avx2"), {"bf16", "int8"}), ("", {"bf16", "int8"})],
)
def test_what_a_processor_lacks(
    cpuinfo: str, lacking: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    assert {precision for precision in ("fp32", "bf16", "int8") if processor_lacks(precision)} == lacking


def test_the_lack_is_said_in_the_processors_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "missing")
    found = processor_lacks("bf16")
    assert found is not None
    assert found.startswith("this processor (")
    assert found.endswith(") has none of avx512_bf16, amx_bf16, bf16")
    assert processor_lacks("fp32") is None


def test_this_processors_flags_are_read() -> None:
    told = Path("/proc/cpuinfo").read_text()
    assert processor_flags()
    assert all(f" {flag}" in told for flag in processor_flags())


# --- cores -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        (None, 4),
        ("max 100000\n", 4),
        ("150000 100000\n", 2),  # one and a half: a second thread has work
        ("100000 100000\n", 1),
        ("20000 100000\n", 1),
        ("800000 100000\n", 4),
        ("nonsense\n", 4),
        ("", 4),
    ],
)
def test_a_control_groups_quota(quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 4, 8)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores() == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1\n", 4), ("150000\n", 2), ("800000\n", 4), ("nonsense\n", 4)])
def test_a_quota_of_the_first_version(quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 4, 8)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores() == cores


def test_affinity() -> None:
    """In a process that is pinned to one core."""
    program = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from tritext.engines.machine import threads, usable_cores; print(usable_cores(), threads(), os.cpu_count())"
    )
    environment = {name: value for name, value in os.environ.items() if name != THREADS}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    cores, chosen, there = done.stdout.split()
    assert cores == "1"
    assert chosen == ("1" if int(there) > 1 else "None")


# --- threads -----------------------------------------------------------------------------------------------------


def test_the_engine_decides_where_the_machine_is_all_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 8, 8)
    assert threads() is None


def test_no_more_threads_than_usable_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_cores(monkeypatch, 6, 8)
    assert threads() == 6
    (tmp_path / "cpu.max").write_text("200000 100000")
    assert threads() == 2


@pytest.mark.parametrize(("said", "expected"), [("3", 3), ("99", 99), ("0", 6), ("-2", 6), ("", 6), ("many", 6)])
def test_the_user_decides_over_all(said: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, 6, 8)
    monkeypatch.setenv(THREADS, said)
    assert threads() == expected


@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (8, 1), (15, 1), (16, 2), (64, 8)])
def test_many_cores_run_several_calls_side_by_side(cores: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with_cores(monkeypatch, cores, cores)
    assert streams() == expected
    monkeypatch.setenv(THREADS, "4")
    assert streams() == 1
