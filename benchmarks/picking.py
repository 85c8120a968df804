"""What it brings to compute the last layer for the tokens that the head looks at only.

    python -m benchmarks.picking .demo/checkpoints/spam

Builds the checkpoint twice, as ever and with the picking of tokens left where the checkpoint has it (see
`tritext.build.picking`), and runs both engines in turn on texts of mixed lengths and on full 16x128 calls.
"""

import statistics
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final
from unittest import mock

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bare import Bare
from benchmarks.report import write
from tritext.bench.lengths import Lengths
from tritext.build import BuildOptions, build
from tritext.build.gate import Bounds
from tritext.build.source import locate
from tritext.engines.base import Precision
from tritext.engines.batching import Call
from tritext.engines.packing import Packed
from tritext.repository import BuiltModel

ROUNDS: Final = 15
TEXTS: Final = 256
PRECISIONS: Final[tuple[Precision, ...]] = ("int8", "bf16", "fp32")


def built(checkpoint: str, repository: Path, precision: Precision, *, early: bool) -> tuple[BuiltModel, float]:
    """The model, and how far its scores drift from the checkpoint's in the mean."""
    late = mock.patch("tritext.build.export.pick_early", return_value=())
    with nullcontext() if early else late:
        options = BuildOptions("it", repository, engine="openvino", precision=precision, bounds=Bounds(0.0, 1.0))
        result = build(locate(checkpoint), options)
    judged = result.manifest.candidates[0]["accuracy"] if result.manifest.candidates else None
    return result.model, judged["mean_drift"] if judged else 0.0


def speedups(whole: Bare, picked: Bare) -> dict[str, float]:
    """Medians of the rounds' ratios, for each kind of calls."""
    lengths = Lengths().draw(TEXTS, 0, 3, whole.settings.longest)

    def calls(bare: Bare) -> dict[str, list[Call]]:
        return {"mixed lengths": bare.calls(lengths, Packed(128, 8)), "16x128": bare.full(16, 128)}

    of_whole, of_picked = calls(whole), calls(picked)
    found = {}
    for kind in of_whole:
        ratios = [whole.seconds(of_whole[kind]) / picked.seconds(of_picked[kind]) for _ in range(ROUNDS + 2)]
        found[kind] = statistics.median(ratios[2:])  # the first ones warm up
    return found


def main(checkpoint: str) -> None:
    """Measure, print a table, keep the figures."""
    name = Path(checkpoint).name
    summary: dict[str, Any] = {}
    for precision in track(PRECISIONS, "Measuring", console=Console(stderr=True)):
        with tempfile.TemporaryDirectory() as folder:
            made = {
                early: built(checkpoint, Path(folder) / str(early), precision, early=early) for early in (False, True)
            }
            speed = speedups(Bare(made[False][0]), Bare(made[True][0]))
        summary[precision] = {"speedup": speed, "mean_drift": {"before": made[False][1], "after": made[True][1]}}
    table = Table("precision", "mixed lengths", "16x128", "mean drift before", "after", title=f"{name}, openvino")
    for title, row in summary.items():
        drift = row["mean_drift"]
        speeds = (f"{value:.2f}" for value in row["speedup"].values())
        table.add_row(title, *speeds, f"{drift['before']:.4f}", f"{drift['after']:.4f}")
    Console().print(table)
    write(f"picking-{name}", f"python -m benchmarks.picking .demo/checkpoints/{name}", {"summary": summary})


if __name__ == "__main__":
    main(sys.argv[1])
