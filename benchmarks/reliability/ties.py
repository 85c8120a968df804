"""Whether another answer is a near-tie: one that comes out too where logits move by no more than batching moves them.

Of entities that cannot be told from the scores, which are of words or groups of words: what was nearly something else
may be a token's class, a word's surest token or a threshold. So the real last step is asked again with the quiet
server's logits, moved a little at random.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest

from benchmarks.reliability.company import Arrays, Caller, Refusal, entities
from benchmarks.reliability.requests import Asked
from tritext import contract
from tritext.repository import BuiltModel
from tritext.serve.remote import Infer
from tritext.settings import EngineSettings
from tritext.stages.base import Request
from tritext.stages.postprocess import PostprocessStage

_TRIES: Final = 400


class Ties:
    """Judges the answers of one token classification model, whose steps are asked by themselves.

    `moved`: the share of the largest logit that others in a batch may move a text's logits by.
    """

    def __init__(self, caller: Caller, infer: Infer, model: BuiltModel, moved: float) -> None:
        self._caller, self._infer, self._model, self._moved = caller, infer, model, moved
        self._last = PostprocessStage.load(model.step("postprocess"))
        self._random = np.random.default_rng(0)

    def nearest(self, asked: Asked, busy: Arrays, rows: Sequence[int]) -> float | None:
        """By what share of the largest logit logits must move for `busy`'s entities in `rows`; None: by too much."""
        tokens, logits = self._quiet(asked)
        parameters = {name: _value(sent) for name, sent in asked.request.parameters.items()}
        left, needed = set(rows), 0.0
        for attempt in range(_TRIES):
            share = self._moved * (attempt + 1) / _TRIES
            moved = logits + share * np.abs(logits).max() * self._random.uniform(-1, 1, logits.shape).astype(np.float32)
            (answer,) = self._last.process([Request({**tokens, contract.LOGITS.name: moved}, parameters)])
            assert isinstance(answer, dict), answer  # noqa: S101 - tells the type checker; its first step took it
            found = {row for row in left if entities(answer, row) == entities(busy, row)}
            if found:
                left, needed = left - found, share
            if not left:
                return needed
        return None

    def _quiet(self, asked: Asked) -> tuple[Arrays, NDArray[np.float32]]:
        """What the first step makes of it, and the second step's logits."""
        request = ModelInferRequest()
        request.CopyFrom(asked.request)
        request.model_name = self._model.step("tokenizer").parent.name
        (tokens,) = self._caller.ask([Asked(request)], together=True)
        if isinstance(tokens, Refusal):
            raise SystemExit(f"The first step refuses what the model answered: {tokens}.")
        folder = self._model.step("encoder")
        sent = {name: tokens[name] for name in EngineSettings.read(folder).inputs}
        return tokens, self._infer(folder.parent.name, sent)[contract.LOGITS.name]


def _value(parameter: InferParameter) -> object:
    return getattr(parameter, parameter.WhichOneof("parameter_choice"))
