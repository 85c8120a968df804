"""`make gpu-check` measures what it says, shown with the stand-in for TensorRT; a GPU changes the figures alone."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

import planning
from benchmarks import tensorrt
from building import make_checkpoint
from tritext.bench.measure import Conditions
from tritext.engines.gpu import tensorrt_version


def test_every_figure_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tensorrt, "prepare", planning.prepared)
    monkeypatch.setattr(tensorrt, "SATURATED", (8, 2))
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    with planning.standin(tmp_path):
        found = tensorrt.check(
            "tiny", checkpoint, "fp16", rounds=1, lengths=(48,), conditions=Conditions(seconds=0.5, warmup=0.2)
        )
    assert all(math.isfinite(value) and value > 0 for value in found.values()), found
    for batching in ("packed", "buckets"):
        plan = found[f"tiny, 48 tokens, {batching}: plan, one text, ms"]
        assert plan < found[f"tiny, 48 tokens, {batching}: ensemble, one text, p50 ms"]


@pytest.mark.skipif(tensorrt_version() is not None, reason="TensorRT is here")
def test_without_tensorrt_and_gpu_it_says_so() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.tensorrt", "bert-base"], capture_output=True, text=True, timeout=120,
        cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "TensorRT is not installed here; measuring the torch engine instead." in ran.stderr
    assert "sees no CUDA device" in ran.stderr
