"""Feature extraction: one vector for each text, for search and comparison.

Semantics: sentence-transformers' ``SentenceTransformer.encode``; pooling is part of the encoder's graph.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.errors import InvalidInput
from tritext.parameters import BOOLEAN, STRING, Parameters, parameter
from tritext.results import Form
from tritext.settings import TaskSettings
from tritext.tasks.base import FloatArray, Task, even
from tritext.tasks.inputs import Arrays, Rows, check_repeated, one_each

_LEAST: Final = 1e-12  # as torch.nn.functional.normalize

EMBEDDING: Final = Tensor("EMBEDDING", "FP32", (-1,))


@dataclass(frozen=True, slots=True)
class FeatureExtractionParameters(Parameters):
    """``normalize``: to length 1. ``prompt`` is put before each text; ``prompt_name``: one of the checkpoint's."""

    normalize: bool = parameter(False, BOOLEAN)
    prompt: str | None = parameter(None, STRING)
    prompt_name: str | None = parameter(None, STRING)


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector of one text; the rest as in `Classification`."""

    form: ClassVar[Form] = "vector"
    embedding: tuple[float, ...]
    token_count: int
    truncated: bool


class FeatureExtractionTask(Task):
    """See the module."""

    name: ClassVar[str] = "feature-extraction"
    auto_class: ClassVar[str] = "AutoModel"
    suffix: ClassVar[str] = "Model"
    has_labels: ClassVar[bool] = False
    outputs: ClassVar[tuple[Tensor, ...]] = (EMBEDDING, contract.COUNT)
    parameters: ClassVar[type[Parameters]] = FeatureExtractionParameters
    result: ClassVar[type[Any]] = Embedding
    entry: ClassVar[Callable[..., Any]] = float

    def rows(self, inputs: Arrays, settings: TaskSettings, parameters: FeatureExtractionParameters) -> Rows:
        """TEXT behind the prompt."""
        rows, prompt = one_each(inputs), _prompt(settings, parameters)
        check_repeated("prompt", prompt, len(rows.texts))
        return replace(rows, texts=[f"{prompt}{text}" for text in rows.texts]) if prompt else rows

    def answer(
        self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: FeatureExtractionParameters
    ) -> dict[str, Any]:
        """EMBEDDING [N, H]."""
        del arrays, settings
        return even((EMBEDDING, _unit(logits) if parameters.normalize else logits))

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """Vectors of length 1."""
        del settings
        return _unit(logits)

    def decisions(self, logits: FloatArray, settings: TaskSettings) -> tuple[NDArray[Any], FloatArray]:
        """A vector decides nothing by itself."""
        del settings
        return logits[:, :0], logits[:, :0]

    def drift(self, got: FloatArray, expected: FloatArray, settings: TaskSettings) -> FloatArray:
        """The distance of the unit vectors: no cosine with any other vector changes by more."""
        del settings
        distance: FloatArray = np.linalg.norm(_unit(got) - _unit(expected), axis=-1)
        return distance

    def request(
        self, text: str, pair: str | None, settings: TaskSettings
    ) -> tuple[dict[str, NDArray[np.object_]], dict[str, object]]:
        """Without a prompt, whichever is the default."""
        inputs, parameters = super().request(text, pair, settings)
        return inputs, {**parameters, "prompt": ""}


def _prompt(settings: TaskSettings, parameters: FeatureExtractionParameters) -> str:
    if parameters.prompt is not None:
        return parameters.prompt
    prompts = settings.options.get("prompts", {})
    name = parameters.prompt_name or settings.options.get("default_prompt")
    if name is None:
        return ""
    if name not in prompts:
        has = f"It has {', '.join(map(repr, prompts))}" if prompts else "It has none; send the text itself as prompt"
        raise InvalidInput(f"Parameter prompt_name is {name!r}, which is no prompt of this model. {has}.")
    return str(prompts[name])


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _LEAST)
    return unit


TASK: Final = FeatureExtractionTask()
