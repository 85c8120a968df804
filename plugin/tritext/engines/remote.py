"""How an engine that is a model of its own is called: by Triton, which only a process of its Python backend can ask."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# (model, inputs by name, name of the output) -> the output. EngineError where the model fails.
CallModel = Callable[[str, Mapping[str, NDArray[Any]], str], NDArray[np.float32]]

_calls: list[CallModel] = []


def connect(call: CallModel) -> None:
    """Say how; the adapter of the Python backend does, before it loads a stage."""
    _calls[:] = [call]


def connected() -> CallModel | None:
    """How to call another model; None outside of Triton."""
    return _calls[0] if _calls else None
