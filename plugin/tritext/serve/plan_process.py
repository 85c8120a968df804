"""Building a plan in a process of its own, which takes with it what it allocated, on the GPU too, and can be stopped.

    python -m tritext.serve.plan_process FOLDER PLAN TIMINGS

builds the recipe in FOLDER into the file PLAN. Each line that it prints is JSON: progress, or in the end an error.
"""

import json
import subprocess
import sys
from pathlib import Path

from tritext.engines import tensorrt_builder
from tritext.engines.plan import Recipe
from tritext.engines.tensorrt_builder import Builder, BuildProgress
from tritext.errors import EngineError, ExportError, TritextError


def build_plan(folder: Path, recipe: Recipe, plan: Path, timings: Path, progress: BuildProgress) -> None:
    """Build `recipe`, which lies in `folder`, into `plan`; EngineError or ExportError where it cannot be.

    `progress` is called with each phase, its steps done and its steps in all; it may raise, which ends the build.
    """
    del recipe  # the process reads it for itself
    command = [sys.executable, "-m", __name__, str(folder), str(plan), str(timings)]
    # Its own errors are JSON too; what else comes, a library wrote.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            _follow(process, progress)
        finally:
            process.kill()


def _follow(process: "subprocess.Popen[str]", progress: BuildProgress) -> None:
    assert process.stdout is not None  # noqa: S101 - it is a pipe; tells the type checker
    for line in process.stdout:
        told = json.loads(line) if line.startswith("{") else {}
        if "phase" in told:
            progress(told["phase"], told["done"], told["total"])
        elif "error" in told:
            raise (ExportError if told["kind"] == ExportError.__name__ else EngineError)(told["error"])
    if process.wait():
        rest = process.stderr.read().strip().splitlines() if process.stderr else []
        raise EngineError(
            f"The process that builds the plan ended with status {process.returncode}"
            f"{': ' + rest[-1] if rest else ''}. Was there enough memory?"
        )


def main(folder: Path, plan: Path, timings: Path) -> None:
    """Build, and tell."""

    def progress(phase: str, done: int, total: int) -> bool:
        print(json.dumps({"phase": phase, "done": done, "total": total}), flush=True)
        return True

    try:
        recipe = Recipe.read(folder)
        plan.write_bytes(Builder(tensorrt_builder.load()).build(folder / recipe.graph, recipe, progress, timings))
    except TritextError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}), flush=True)
    except OSError as error:
        print(json.dumps({"error": f"{plan} cannot be written: {error.strerror}.", "kind": "EngineError"}), flush=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
