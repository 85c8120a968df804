"""From an ONNX graph to a TensorRT plan, by TensorRT's Python API (10 and 11; TensorRT-RTX has the same).

The network is strongly typed: every precision is the graph's own, so that what was checked is what is built, and no
flag of the builder stands for one. Source of the interface: NVIDIA's TensorRT Python API reference.
"""

import contextlib
import importlib
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from tritext.engines.gpu import tensorrt_version
from tritext.engines.plan import Recipe
from tritext.engines.shapes import Profile
from tritext.errors import EngineError, ExportError

if TYPE_CHECKING:
    import tensorrt

T = TypeVar("T")

_MODULES: Final = ("tensorrt", "tensorrt_bindings")  # the second: the wheels of bindings alone, for NVIDIA's images


class BuildProgress(Protocol):
    """Who is told how far a build is: `done` of `total` steps of `phase`. False ends it."""

    def __call__(self, phase: str, done: int, total: int) -> bool:
        """Called after each step."""
        ...


class Builder:
    """Builds plans with the module `trt`; `targets` are compute capabilities to build for ("8.0"), here if none.

    Only TensorRT-RTX can build for a GPU that is not there.
    """

    def __init__(self, trt: Any, targets: Sequence[str] = ()) -> None:
        self._trt = trt
        self._targets = targets

    def build(
        self, graph: Path, recipe: Recipe, progress: BuildProgress | None = None, timings: Path | None = None
    ) -> bytes:
        """The serialized plan of `graph`.

        `timings` is a file that keeps how fast kernels were, which makes the next build faster. ExportError where
        TensorRT refuses the graph, with the node's name; EngineError where it cannot build on this machine.
        """
        trt = self._trt
        log = _logger(trt)
        builder: tensorrt.Builder = _made(lambda: trt.Builder(log), log, "start its builder")
        network = _made(lambda: builder.create_network(_strongly_typed(trt)), log, "make a network")
        self._parse(graph, network, log)
        config = builder.create_builder_config()
        config.builder_optimization_level = recipe.options.optimization_level
        if tf32 := getattr(trt.BuilderFlag, "TF32", None):  # set by default; it rounds what is float in the graph
            config.clear_flag(tf32)
        if recipe.options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if recipe.options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        for number, capability in enumerate(self._targets):
            rtx: Any = config  # TensorRT-RTX alone has these
            rtx.num_compute_capabilities = len(self._targets)
            rtx.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), number)
        for profile in recipe.profiles():
            self._add_profile(builder, config, network, profile)
        monitor = None if progress is None else _monitor(trt, progress)
        if monitor is not None:
            config.progress_monitor = monitor
        cache = _timing_cache(config, timings)
        plan = builder.build_serialized_network(network, config)
        if monitor is not None and monitor.raised:
            raise monitor.raised
        if plan is None:
            raise _refusal(log, f"TensorRT {trt.__version__} cannot build {graph.name}")
        if timings is not None and cache is not None:
            with contextlib.suppress(OSError):  # a plan took minutes; its timings are only for the next
                _keep(timings, config)
        return bytes(plan)

    def _parse(self, graph: Path, network: "tensorrt.INetworkDefinition", log: Any) -> None:
        parser: tensorrt.OnnxParser = self._trt.OnnxParser(network, log)
        if parser.parse_from_file(str(graph)):
            return
        faults = [_fault(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ExportError(
            f"TensorRT {self._trt.__version__} does not take the graph {graph.name}: "
            f"{'; '.join(faults) or _last(log) or 'it gives no reason'}."
        )

    @staticmethod
    def _add_profile(
        builder: "tensorrt.Builder", config: "tensorrt.IBuilderConfig", network: "tensorrt.INetworkDefinition",
        profile: Profile,
    ) -> None:  # fmt: skip
        added = builder.create_optimization_profile()
        known = {network.get_input(index).name for index in range(network.num_inputs)}
        if known != set(profile):
            raise ExportError(
                f"The graph takes {', '.join(sorted(known))}, its recipe has {', '.join(sorted(profile))}."
            )
        for name, (smallest, usual, largest) in profile.items():
            added.set_shape(name, smallest, usual, largest)
        if config.add_optimization_profile(added) < 0:
            raise ExportError(f"TensorRT does not take the shapes {dict(profile)}.")


def load() -> Any:
    """TensorRT's Python module; EngineError where it is missing, or is of another version than the library."""
    library = tensorrt_version()
    for name in _MODULES:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            if getattr(error, "name", None) == name:  # it is not there
                continue
            raise EngineError(f"TensorRT's Python bindings cannot be loaded: {error}.") from error
        if not hasattr(module, "Builder"):  # stubs for type checkers have the same name
            continue
        if library is not None and _three(module.__version__) != _three(library):
            raise EngineError(
                f"TensorRT's Python bindings are {module.__version__}, its library here is {library}. They must be the "
                f"same. {_advice(library)}"
            )
        return module
    raise EngineError(f"TensorRT's Python bindings are not installed. {_advice(library or '')}")


def _advice(library: str) -> str:
    major = library.partition(".")[0] or "10"
    cuda = "cu13" if major == "11" else "cu12"
    version = f"=={library}.*" if library else ""
    return f"Install them with: pip install 'tensorrt-{cuda}-bindings{version}' (cu12 or cu13, as the driver's CUDA is)"


def _three(version: str) -> list[str]:
    return version.split(".")[:3]


def _strongly_typed(trt: Any) -> int:
    """The network's flags. Where there is no such flag any more, every network is strongly typed."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _made(make: Callable[[], T], log: Any, what: str) -> T:
    try:
        made = make()
    except (RuntimeError, TypeError) as error:  # what the bindings raise where the library gives nothing
        raise EngineError(f"TensorRT cannot {what}: {_last(log) or error}.") from error
    if made is None:
        raise EngineError(f"TensorRT cannot {what}: {_last(log) or 'it gives no reason'}.")
    return made


def _fault(error: "tensorrt.ParserError") -> str:
    node = f"node {error.node_name()!r} ({error.node_operator()})" if error.node_name() else "the graph"
    return f"{node}: {error.desc()}"


def _refusal(log: Any, what: str) -> ExportError:
    return ExportError(f"{what}: {_last(log) or 'it gives no reason'}.")


def _last(log: Any) -> str:
    return log.errors[-1].strip().rstrip(".") if log.errors else ""


def _logger(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the module is a value here
        """Keeps what TensorRT says of errors; it prints nothing."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                self.errors.append(message)

    return Log()


def _monitor(trt: Any, progress: BuildProgress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is a value here
        """Tells of all phases. An exception must not pass through TensorRT, so it ends the build and waits here."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self._totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            del parent_phase
            self._totals[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                return progress(phase_name, step + 1, self._totals.get(phase_name, 0))
            except BaseException as error:  # noqa: BLE001 - Ctrl-C arrives here too
                self.raised = error
                return False

        def phase_finish(self, phase_name: str) -> None:
            self._totals.pop(phase_name, None)

    return Monitor()


def _timing_cache(config: "tensorrt.IBuilderConfig", timings: Path | None) -> Any:
    if timings is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TensorRT-RTX has another cache
        cache = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
        # One of another TensorRT or GPU is refused, and then begun anew.
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _keep(timings: Path, config: "tensorrt.IBuilderConfig") -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        cache = config.get_timing_cache()
    if cache is None:
        return
    written = timings.with_suffix(f".{time.time_ns()}")
    written.write_bytes(bytes(cache.serialize()))
    written.replace(timings)
