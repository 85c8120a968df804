"""The engines, by name. Adding one is a file here, a line in `ENGINES` and a test."""

from collections.abc import Mapping
from typing import Final

from tritext.engines import onnxruntime, openvino, pytorch, tensorrt
from tritext.engines.base import Engine
from tritext.errors import EngineError

ENGINES: Final[Mapping[str, Engine]] = {
    engine.name: engine for engine in (openvino.ENGINE, onnxruntime.ENGINE, pytorch.ENGINE, tensorrt.ENGINE)
}


def engine_named(name: str) -> Engine:
    """The engine called `name`; EngineError names the ones there are."""
    if name not in ENGINES:
        raise EngineError(f"Engine {name!r} is unknown. Engines: {', '.join(ENGINES)}.")
    return ENGINES[name]
