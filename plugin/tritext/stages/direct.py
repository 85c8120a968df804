"""What a step may be asked by whoever knows its name: no more than the step in front of it would send."""

from tritext import contract
from tritext.errors import InvalidInput
from tritext.settings import EngineSettings
from tritext.stages.base import Request


def check_tokens(request: Request, settings: EngineSettings) -> None:
    """InvalidInput where token tensors [N, L] differ in shape, or are not as the tokenizer step's ever are.

    Attention takes time and memory by the square of L: one row of 20,000 tokens kept an encoder busy for a minute. In
    a packed row, a text without a token would be answered for its neighbour. And who wants counts alone is not asked
    for here: that step has let it through without counting what it costs.
    """
    inputs = request.inputs
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
    if not inputs[contract.ATTENTION_MASK.name].any(axis=1).all():
        raise InvalidInput(
            f"{contract.ATTENTION_MASK.name} has a row without a token. Send texts to the model itself, which makes "
            "the tokens."
        )
    if contract.COUNT_ONLY in request.parameters:
        raise InvalidInput(
            f"A request with the parameter {contract.COUNT_ONLY} gets {contract.TOKEN_COUNT.name} alone. Ask for that "
            "output, or leave the parameter out."
        )
