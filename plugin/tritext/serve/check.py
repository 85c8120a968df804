"""Whether an engine gives, on this machine, the logits that the checkpoint gave when the model was built."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.engines.plan import RECIPE, Recipe
from tritext.engines.shapes import Buckets, bucket
from tritext.errors import ServeError
from tritext.manifest import Example
from tritext.naming import step_name
from tritext.repository import BuiltModel, read_config
from tritext.serve.remote import Infer

BUDGET: Final = 0.5  # seconds for all models of a server together
AT_LEAST: Final = 3  # texts of each model, however long they take


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found: the `texts` asked, and the largest absolute difference of a logit."""

    model: str
    texts: int
    of: int
    difference: float
    tolerance: float


def check_engine(model: BuiltModel, infer: Infer, *, budget: float = BUDGET) -> Checked:
    """Ask the encoder step of `model` for the reference texts, the shortest first, until `budget` seconds are over.

    ServeError where a logit is farther from the checkpoint's than the build's own tolerance.
    """
    step = step_name(model.name, "encoder", model.build)
    inputs = {entry.name for entry in read_config(model.repository / step).input}
    lengths = _lengths(model.step("encoder"))
    tolerance = _tolerance(model)
    examples = sorted(model.reference(), key=lambda example: example.input_ids.size)
    worst, asked, deadline = 0.0, 0, time.monotonic() + budget
    for example in examples:
        if asked >= AT_LEAST and time.monotonic() > deadline:
            break
        logits = infer(step, _padded(example.encoder_arrays(inputs), lengths)).get(contract.LOGITS.name)
        if logits is not None and lengths and example.logits.ndim == 2:
            logits = logits[:, : len(example.logits)]
        difference = _difference(model, example, logits)
        if not difference <= tolerance:  # a NaN is a mismatch too
            raise _mismatch(model, example, f"its logits differ by {difference:.3g} from the checkpoint's", tolerance)
        worst, asked = max(worst, difference), asked + 1
    return Checked(model.name, asked, len(examples), worst, tolerance)


def _lengths(encoder: Path) -> Sequence[int]:
    """What a native plan wants requests padded up to; nothing where the encoder takes any length."""
    if not (encoder / RECIPE).is_file():
        return ()
    shapes = Recipe.read(encoder).plan_shapes()
    return shapes.lengths if isinstance(shapes, Buckets) else ()


def _padded(arrays: dict[str, NDArray[np.int32]], lengths: Sequence[int]) -> dict[str, NDArray[np.int32]]:
    """[1, L] each, padded up to one of `lengths` as the tokenizer would."""
    length = arrays[contract.INPUT_IDS.name].shape[1]
    missing = bucket(lengths, length) - length
    return {name: np.pad(array, ((0, 0), (0, missing))) for name, array in arrays.items()}


def _difference(model: BuiltModel, example: Example, logits: NDArray[np.float32] | None) -> float:
    shape = None if logits is None else logits.shape[1:]
    if logits is None or shape != example.logits.shape:
        problem = f"its logits have shape {shape} where the checkpoint's have {example.logits.shape}"
        raise _mismatch(model, example, problem, _tolerance(model))
    return float(np.abs(logits[0] - example.logits).max(initial=0.0))


def _tolerance(model: BuiltModel) -> float:
    try:
        return float(model.manifest().parity["tolerance"]["logits"])
    except (KeyError, TypeError, ValueError) as error:
        raise ServeError(
            f"The manifest of {model.name} (build {model.build}) has no tolerance for its logits. Build it again."
        ) from error


def _mismatch(model: BuiltModel, example: Example, problem: str, tolerance: float) -> ServeError:
    shown = example.text if len(example.text) <= 60 else example.text[:59] + "…"
    engine = model.manifest().engine
    kind = " ".join(str(engine[key]) for key in ("name", "precision") if key in engine)
    return ServeError(
        f"Model {model.name} (build {model.build}, {kind or 'engine unknown'}) is wrong on this machine: for the text "
        f"{shown!r} {problem}, and the tolerance is {tolerance:g}. Build it again on this machine, or with another "
        "engine or precision."
    )
