"""What a user can choose about a build, and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritext.build.checkpoint import Overrides
from tritext.engines.base import Precision
from tritext.manifest import Manifest
from tritext.repository import BuiltModel


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Everything a user can choose. `defaults` are request parameters' defaults, as they would be sent."""

    name: str
    repository: Path
    engine: str = "openvino"
    precision: Precision = "fp32"
    max_batch_size: int = 256
    overrides: Overrides = field(default_factory=Overrides)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False


@dataclass(frozen=True, slots=True)
class BuildResult:
    """`changed` is False where the very same build was already committed."""

    model: BuiltModel
    manifest: Manifest
    changed: bool
