"""Faults that a step's process can meet, each brought about from outside.

A signal needs no help. What a process does to itself, be it memory without end or a call that never comes back, is
done by a few lines behind each step's ``model.py``, in a copy of the repository: they look for an order, a file with
the step's name, before each batch.
"""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from textwrap import dedent
from typing import Final

from tritext.manifest import MANIFEST, sha256
from tritext.repository import BuiltModel, models
from tritext.serve.steps import children

_BEHIND: Final = """

    import ctypes
    from pathlib import Path

    ORDERS = Path({orders!r})


    def memory():
        held = []
        while True:
            held.append(b"x" * (16 << 20))


    def hang():
        ctypes.PyDLL(None).sleep(100_000)  # a PyDLL call keeps the interpreter's lock


    class TritonPythonModel(TritonPythonModel):
        def execute(self, requests):
            for fault in (memory, hang):
                order = ORDERS / f"{step}.{{fault.__name__}}"
                if order.exists():
                    order.unlink()
                    fault()
            return super().execute(requests)
"""

KINDS: Final = ("kill", "stop", "memory", "hang")


class Faults:
    """Brings faults upon the steps of a server of `repository`, which is a copy of `original` in `folder`."""

    def __init__(self, original: Path, folder: Path) -> None:
        self.repository = folder / "repository"
        self._orders = folder / "orders"
        self._orders.mkdir()
        shutil.copytree(original, self.repository)
        for model in models(self.repository):
            self._listen(model)

    def _listen(self, model: BuiltModel) -> None:
        path = model.folder / MANIFEST
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for step in manifest["steps"].values():
            code = self.repository / step / "1" / "model.py"
            if code.is_file():
                text = code.read_text(encoding="utf-8") + dedent(_BEHIND).format(orders=str(self._orders), step=step)
                code.write_text(text, encoding="utf-8")
                manifest["files"][str(code.relative_to(self.repository))] = sha256(code)
        path.write_text(json.dumps(manifest), encoding="utf-8")

    def inflict(self, kind: str, step: str, server: int) -> None:
        """Have `step` of the Triton whose process is `server` suffer `kind`, one of `KINDS`."""
        if kind in ("kill", "stop"):
            for pid in pids(step, server):
                os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
        else:
            (self._orders / f"{step}.{kind}").touch()


def pids(step: str, server: int) -> list[int]:
    """The processes of `step` among the children of `server`."""
    found = []
    for pid in children(server):
        with contextlib.suppress(OSError):
            if f"/{step}/" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
                found.append(pid)
    return found
