"""Whether an engine gives, on this machine, the logits that the checkpoint gave when the model was built."""

import itertools
import time
from collections.abc import Mapping, Sequence
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
from tritext.settings import EngineSettings

BUDGET: Final = 0.5  # seconds for all models of a server together
AT_LEAST: Final = 3  # texts of each model, however long they take


class WrongEngine(ServeError):
    """An engine does not give the checkpoint's answers on this machine."""


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
    padding = _Padding.of(model.step("encoder"))
    tolerance = _tolerance(model)
    examples = sorted(model.reference(), key=lambda example: example.input_ids.size)
    worst, asked, deadline = 0.0, 0, time.monotonic() + budget
    for example in examples:
        if asked >= AT_LEAST and time.monotonic() > deadline:
            break
        logits = infer(step, padding.padded(example.encoder_arrays(inputs))).get(contract.LOGITS.name)
        if logits is not None and padding.lengths and example.logits.ndim == 2:
            logits = logits[:, : len(example.logits)]
        difference = _difference(model, example, logits)
        if not difference <= tolerance:  # a NaN is a mismatch too
            raise _mismatch(model, example, f"its logits differ by {difference:.3g} from the checkpoint's", tolerance)
        worst, asked = max(worst, difference), asked + 1
    return Checked(model.name, asked, len(examples), worst, tolerance)


@dataclass(frozen=True, slots=True)
class _Padding:
    """What the tokenizer pads requests up to, and with which id; nothing where the encoder takes any length."""

    lengths: Sequence[int] = ()
    pad_id: int = 0

    @classmethod
    def of(cls, encoder: Path) -> "_Padding":
        """That of the encoder step in the version folder `encoder`."""
        shapes = Recipe.read(encoder).plan_shapes() if (encoder / RECIPE).is_file() else None
        return cls(shapes.lengths, EngineSettings.read(encoder).pad_id) if isinstance(shapes, Buckets) else cls()

    def padded(self, arrays: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
        """[N, L] each, as the tokenizer would send them."""
        length = arrays[contract.INPUT_IDS.name].shape[1]
        missing = ((0, 0), (0, bucket(self.lengths, length) - length))
        fill = {contract.INPUT_IDS.name: self.pad_id}
        return {name: np.pad(array, missing, constant_values=fill.get(name, 0)) for name, array in arrays.items()}


def check_shapes(model: BuiltModel, plan: Path, infer: Infer) -> int:
    """Ask the plan of `model`, in the version folder `plan`, with calls of every shape that it was built for.

    They are filled with reference texts; gives how many calls there were.

    Each profile has kernels of its own, and single texts meet few of them. WrongEngine as `check_engine`.
    """
    step = step_name(model.name, "encoder", model.build)
    config = read_config(model.repository / step)
    inputs = {entry.name for entry in config.input}
    padding, tolerance = _Padding.of(model.step("encoder")), _tolerance(model)
    examples = sorted(model.reference(), key=lambda example: -example.input_ids.size)
    asked = 0
    for rows, width in _calls(plan):
        fitting = [example for example in examples if example.input_ids.size <= width]
        texts = _filling(fitting, rows * width, rows if padding.lengths else config.max_batch_size)
        if not texts:
            continue
        logits = infer(step, padding.padded(_together(texts, inputs, padding.pad_id))).get(contract.LOGITS.name)
        for index, example in enumerate(texts):
            row = None if logits is None else logits[index : index + 1]
            if row is not None and example.logits.ndim == 2:
                row = row[:, : len(example.logits)]
            difference = _difference(model, example, row)
            if not difference <= tolerance:
                problem = f"its logits differ by {difference:.3g} in a call of {rows} x {width}"
                raise _mismatch(model, example, problem, tolerance)
        asked += 1
    return asked


def _calls(plan: Path) -> list[tuple[int, int]]:
    """(rows, tokens a row) of every profile of the plan in the version folder `plan`."""
    shapes = Recipe.read(plan).plan_shapes()
    if isinstance(shapes, Buckets):
        return [(rows, length) for length in shapes.lengths for rows in (1, shapes.rows)]
    return list(shapes.calls)


def _filling(examples: Sequence[Example], tokens: int, most: int) -> list[Example]:
    """`examples`, over and over, until they have so many tokens or are so many."""
    chosen: list[Example] = []
    for example in itertools.islice(itertools.cycle(examples), most):
        tokens -= example.input_ids.size
        if chosen and tokens < 0:
            break
        chosen.append(example)
    return chosen


def _together(examples: Sequence[Example], inputs: set[str], pad_id: int) -> dict[str, NDArray[np.int32]]:
    """One request of several texts, [N, L] each."""
    several = [example.encoder_arrays(inputs) for example in examples]
    length = max(each[contract.INPUT_IDS.name].shape[1] for each in several)
    one = _Padding((length,), pad_id)
    padded = [one.padded(each) for each in several]
    return {name: np.concatenate([each[name] for each in padded]) for name in padded[0]}


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


def _mismatch(model: BuiltModel, example: Example, problem: str, tolerance: float) -> WrongEngine:
    shown = example.text if len(example.text) <= 60 else example.text[:59] + "…"
    engine = model.manifest().engine
    kind = " ".join(str(engine[key]) for key in ("name", "precision") if key in engine)
    return WrongEngine(
        f"Model {model.name} (build {model.build}, {kind or 'engine unknown'}) is wrong on this machine: for the text "
        f"{shown!r} {problem}, and the tolerance is {tolerance:g}. Build it again on this machine, or with another "
        "engine or precision."
    )
