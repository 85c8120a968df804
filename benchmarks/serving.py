"""A server as users run it: `tritext serve` in a process of its own, so that its fences share nothing with the load."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tritext.serve.steps import children


@dataclass(frozen=True, slots=True)
class Running:
    """A `tritext serve` that runs: where it listens, Triton's process id, and its own process."""

    grpc: str
    ready: str
    metrics: str
    triton: int
    process: "subprocess.Popen[str]"

    def triton_now(self) -> int:
        """Triton's process id, which is another one when it was started again; 0 while there is none."""
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].endswith(b"/tritonserver"):
                    return pid
        return 0


@contextmanager
def serving(repository: Path, models: Sequence[str] = (), *options: str) -> Iterator[Running]:
    """`tritext serve` on free ports with `models`, all of `repository` where none is named; stopped at the end."""
    program = [sys.executable, "-c", "from tritext.cli import main; main()", "serve", str(repository), "--json"]
    ports = [part for port in ("grpc", "http", "metrics", "health") for part in (f"--{port}-port", "0")]
    names = [part for model in models for part in ("--model", model)]
    process = subprocess.Popen([*program, *ports, *names, *options], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise SystemExit("tritext serve did not start; see above.")
        said = json.loads(line)
        yield Running(said["grpc"], said["ready"], said["metrics"], said["pid"], process)
    finally:
        process.terminate()
        process.wait(60)
