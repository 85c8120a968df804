"""What every result says of the machine and the versions it was measured with."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tritext.bench.environment import machine, versions

RESULTS: Final = Path(__file__).parent / "results"
_PACKAGES: Final = (
    "tritext",
    "nvidia-pytriton",
    "openvino",
    "nncf",
    "onnxruntime",
    "tokenizers",
    "torch",
    "transformers",
)


def write(name: str, command: str, figures: dict[str, Any]) -> Path:
    """Write `figures` to results/`name`.json with the `command` that made them, the machine and the versions."""
    document = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions(_PACKAGES),
        **figures,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
