"""What a user can choose about a build, and what comes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tritext.build.candidates import AUTO
from tritext.build.checkpoint import Overrides
from tritext.build.gate import Bounds
from tritext.engines.plan import PlanOptions
from tritext.manifest import Manifest
from tritext.repository import BuiltModel
from tritext.text.inputs import TextInput

Batching = Literal["packed", "buckets"]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Everything a user can choose. `defaults` are request parameters' defaults, as they would be sent.

    `engine` and `precision` may be "auto": the fastest whose answers on `texts` are within `bounds`. Without `texts`
    it is some of ours, in the languages that the tokenizer knows best.
    """

    name: str
    repository: Path
    engine: str = AUTO
    precision: str = AUTO
    texts: Sequence[TextInput] = ()
    bounds: Bounds = field(default_factory=Bounds)
    instances: int = 1  # processes that encode, each with all of the model
    batching: Batching = "packed"  # how requests of many lengths reach a TensorRT plan, see engines/shapes.py
    plan: PlanOptions = field(default_factory=PlanOptions)  # of TensorRT's builder
    max_batch_size: int = 256  # texts a request
    overrides: Overrides = field(default_factory=Overrides)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] | None = None  # of a text classifier, by label
    force: bool = False


@dataclass(frozen=True, slots=True)
class BuildResult:
    """`changed` is False where the very same build was already committed."""

    model: BuiltModel
    manifest: Manifest
    changed: bool
