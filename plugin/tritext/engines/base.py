"""The two protocols every engine fulfils, and the graph that it starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tritext.settings import EngineSettings

if TYPE_CHECKING:  # the encoder's process runs engines, and must not pay for gRPC
    from tritonclient.grpc.model_config_pb2 import ModelConfig

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Graph:
    """An exported encoder: an ONNX file whose `inputs` are INT32 [B, L] and whose output is ``logits``.

    Its folder holds nothing else but, for a large one, its weights.
    """

    path: Path
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Artefact:
    """What an engine made: a file in the step's version folder, and what its Triton configuration needs.

    `template` is the folder of `models/` that runs it; `config`, where there is one, is merged over that template.
    """

    file: str
    template: str
    versions: Mapping[str, str]
    config: "ModelConfig | None" = None


class Runner(Protocol):
    """Runs an artefact inside the Python backend."""

    def run(self, arrays: Mapping[str, NDArray[np.int32]]) -> NDArray[np.float32]:
        """Logits [B, C] or [B, L, C] for INT32 arrays [B, L], named as the graph's inputs."""
        ...


class Engine(Protocol):
    """One engine: builds its artefact from a graph, and makes the runner for it."""

    name: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]]

    def build(self, graph: Graph, precision: Precision, folder: Path) -> Artefact:
        """Write the artefact into `folder`. ExportError where the engine refuses the graph."""
        ...

    def runner(self, path: Path, settings: EngineSettings) -> Runner:
        """Load the artefact at `path`. EngineError where this machine cannot."""
        ...
