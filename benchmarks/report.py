"""What every result says of the machine and the versions it was measured with."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"
_PACKAGES: Final = ("tritext", "nvidia-pytriton", "openvino", "onnxruntime", "tokenizers", "torch", "transformers")


def processor() -> str:
    """The processor's name, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(name: str, command: str, figures: dict[str, Any]) -> Path:
    """Write `figures` to results/`name`.json with the `command` that made them, the machine and the versions."""
    document = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {package: metadata.version(package) for package in _PACKAGES},
        **figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
