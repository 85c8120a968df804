"""The two protocols every engine fulfils, and what it builds from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the encoder's process runs engines, and must not pay for gRPC
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    from tritext.engines.plan import PlanOptions
    from tritext.engines.shapes import Buckets, CallShapes

Precision = Literal["fp32", "bf16", "fp16", "int8", "fp8"]
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
IntArray = NDArray[np.int32]

# A packed graph takes several texts in a row. Beside the ids it has these inputs, INT32 [R, L] but for the last.
POSITION_IDS: Final = "position_ids"  # of each token in its own text, from 0
SEGMENT_IDS: Final = "segment_ids"  # of the text within its row, from 1; 0 is padding
FIRST_TOKENS: Final = "first_tokens"  # [T]: where each text begins in the flattened rows; only where logits are [T, C]


@dataclass(frozen=True, slots=True)
class Graph:
    """An exported encoder: an ONNX file with INT32 inputs, whose output is ``logits``.

    `inputs` are those of the tokenizer's tensors that it takes. Where it is `packed` it takes the inputs above too
    and no attention mask: a token attends to those of its own segment. Logits are one row a text, [T, C], or one a
    token, [R, L, C]. Its folder holds nothing else but, for a large one, its weights.

    `few` names the products with weights that get only the tokens which the head looks at. They are left out of int8:
    they hardly take time, and what they round off goes into the answer as it is.
    """

    path: Path
    inputs: tuple[str, ...]
    packed: bool = False
    few: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What an engine may build from: the `graph`, the torch `module` it was exported from, and real calls.

    `calibration` holds arrays as a runner gets them, of real texts, for engines that quantise. `export` writes the
    graph again, computing in another precision, for engines that take their types from it; `shapes` are those that
    calls will have, and `plan` is what else was asked for, for engines that are built for shapes.
    """

    graph: Graph
    module: Any
    calibration: Sequence[Mapping[str, IntArray]] = ()
    export: Callable[[Precision, Path], Graph] | None = None
    shapes: "CallShapes | Buckets | None" = None
    plan: "PlanOptions | None" = None


@dataclass(frozen=True, slots=True)
class Artefact:
    """What an engine made: `file` in the step's version folder, and what its Triton configuration needs.

    `parts` are all files and folders that belong to it, `file` included. `template` is the folder of `models/` that
    runs it, as the encoder step or, where that is "engine_…", as a model of its own that the encoder step calls;
    `config`, where there is one, is merged over that template.
    """

    file: str
    parts: tuple[str, ...]
    template: str
    versions: Mapping[str, str]
    config: "ModelConfig | None" = None

    @property
    def is_own_model(self) -> bool:
        """Whether it is a model of its own, which the encoder step calls."""
        return self.template.startswith("engine_")

    @property
    def encoder_template(self) -> str:
        """The folder of `models/` for the encoder step."""
        return "encoder_python" if self.is_own_model else self.template


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """How an artefact is run: `threads` for all of `streams` together, None leaves their number to the engine.

    `streams` is how many threads of the caller's may call `run` at once; `engine` are the engine's own settings. Where
    they are not `bound` threads may run on any core: another process may be about to use as many.
    """

    precision: Precision
    threads: int | None = None
    streams: int = 1
    engine: Mapping[str, Any] = field(default_factory=dict)
    bound: bool = True


class Runner(Protocol):
    """Runs an artefact inside the Python backend. `uses_cores`: it computes on the processor, which others use too."""

    uses_cores: bool

    def run(self, arrays: Mapping[str, IntArray]) -> NDArray[np.float32]:
        """The graph's logits for its inputs, by name. The array is the caller's own; threads may call at once."""
        ...


class Engine(Protocol):
    """One engine: builds its artefact, and makes the runner for it.

    Where it `divides`, a process may have several runners, each with a number of threads of its own.
    """

    name: ClassVar[str]
    divides: ClassVar[bool]
    precisions: ClassVar[tuple[Precision, ...]]

    def build(self, ingredients: Ingredients, precision: Precision, folder: Path) -> Artefact:
        """Write the artefact into `folder`, beside those of other precisions. ExportError where it cannot."""
        ...

    def automatic(self) -> bool:
        """Whether ``--engine auto`` should try it on this machine."""
        ...

    def lacks(self, precision: Precision) -> str | None:
        """What this machine lacks to run `precision` well, in words; None where it lacks nothing."""
        ...

    def runner(self, path: Path, options: RunnerOptions) -> Runner:
        """Load the artefact at `path`. EngineError where this machine cannot."""
        ...
