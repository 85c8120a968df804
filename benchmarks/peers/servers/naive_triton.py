"""Triton on the naive ensemble beside this file.

    python naive_triton.py EXPORTED_DIR GRPC_PORT

The one server that takes something of tritext: where the Triton inside nvidia-pytriton is, and what it needs.
"""

import os
import sys
from pathlib import Path

from tritext.serve.installation import find

if __name__ == "__main__":
    exported, port = sys.argv[1:]
    installation = find()
    os.chdir(Path(__file__).parent / "naive")  # a step's path must not hold spaces, so it is a relative one
    flags = [
        "--model-repository=.",
        "--disable-auto-complete-config",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
    ]
    environment = {**installation.environment, "EXPORTED_CHECKPOINT": str(Path(exported).resolve())}
    command = [str(installation.executable), *installation.arguments, *flags]
    os.execve(command[0], [*command, "--grpc-address=127.0.0.1", f"--grpc-port={port}"], environment)  # noqa: S606
