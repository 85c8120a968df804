"""What a step may be asked by whoever knows its name: no more than the step in front of it would send."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from tritext import contract
from tritext.errors import InvalidInput
from tritext.settings import EngineSettings


def check_tokens(inputs: Mapping[str, NDArray[Any]], settings: EngineSettings) -> None:
    """InvalidInput where token tensors [N, L] differ in shape, or are longer than the tokenizer step's ever are.

    Attention takes time and memory by the square of L: one row of 20,000 tokens kept an encoder busy for a minute.
    """
    ids = inputs[contract.INPUT_IDS.name]
    for name in settings.inputs:
        if inputs[name].shape != ids.shape:
            raise InvalidInput(
                f"{name} has the shape {list(inputs[name].shape)}, {contract.INPUT_IDS.name} {list(ids.shape)}. Send "
                "texts to the model itself, which makes the tokens."
            )
    if ids.ndim != 2 or 0 in ids.shape or (settings.longest and ids.shape[1] > settings.longest):
        raise InvalidInput(
            f"{contract.INPUT_IDS.name} has the shape {list(ids.shape)}, this encoder takes rows of 1 to "
            f"{settings.longest or 'any number of'} tokens. Send texts to the model itself, which makes the tokens."
        )
