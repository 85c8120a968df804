"""A model's steps asked one by one, as its ensemble chains them: which of them it is that does not answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from numpy.typing import NDArray

from tritext.repository import BuiltModel
from tritext.serve import ensemble
from tritext.serve.remote import Arrays, Infer


@dataclass(frozen=True, slots=True)
class Chain:
    """What each step of a model gets for a short text, by the step's Triton name, in their order."""

    model: BuiltModel
    sample: Arrays
    inputs: Mapping[str, Arrays] = field(default_factory=dict)

    @classmethod
    def walk(cls, model: BuiltModel, infer: Infer) -> Self:
        """Ask each step of `model` what the one before it answered; ServeError where one fails."""
        sample = ensemble.sample_arrays(model)
        tensors: dict[str, NDArray[Any]] = dict(sample)
        inputs: dict[str, Arrays] = {}
        for step in model.config().ensemble_scheduling.step:
            sent = {own: tensors[name] for own, name in step.input_map.items() if name in tensors}
            answer = infer(step.model_name, sent)
            inputs[step.model_name] = sent
            tensors |= {name: answer[own] for own, name in step.output_map.items()}
        return cls(model, sample, inputs)
