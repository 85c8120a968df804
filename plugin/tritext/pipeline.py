"""The three stages of a built model in one process, without Triton: for parity, and for trying a model out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from tritext.errors import TritextError
from tritext.repository import BuiltModel
from tritext.stages.base import Answer, Request, Stage, process_isolated
from tritext.stages.encoder import EncoderStage
from tritext.stages.postprocess import PostprocessStage
from tritext.stages.tokenizer import TokenizerStage


@dataclass(frozen=True, slots=True)
class Trace:
    """All tensors that one request met on its way, by name."""

    tensors: Mapping[str, NDArray[Any]]


class Pipeline:
    """The chain that the ensemble wires, with each request's tensors kept."""

    def __init__(self, tokenizer: Stage, encoder: Stage, postprocess: Stage) -> None:
        self._stages = (tokenizer, encoder, postprocess)

    @classmethod
    def load(cls, model: BuiltModel) -> Self:
        """Load a committed model."""
        return cls.from_folders(model.step("tokenizer"), model.step("encoder"), model.step("postprocess"))

    @classmethod
    def from_folders(cls, tokenizer: Path, encoder: Path, postprocess: Path) -> Self:
        """Load the stages from their version folders."""
        return cls(TokenizerStage.load(tokenizer), EncoderStage.load(encoder), PostprocessStage.load(postprocess))

    def run(self, requests: Sequence[Request]) -> list[Trace | TritextError]:
        """Take `requests` through all stages together, as a server would that merged them into one batch."""
        results: list[Answer | TritextError] = [dict(request.inputs) for request in requests]
        for stage in self._stages:
            going = [i for i, result in enumerate(results) if not isinstance(result, TritextError)]
            sent = [Request(_tensors(results[i]), requests[i].parameters) for i in going]
            for i, answer in zip(going, process_isolated(stage, sent) if sent else [], strict=True):
                results[i] = answer if isinstance(answer, TritextError) else {**_tensors(results[i]), **answer}
        return [result if isinstance(result, TritextError) else Trace(result) for result in results]


def _tensors(result: Answer | TritextError) -> Answer:
    assert not isinstance(result, TritextError)  # noqa: S101 - filtered by the caller; tells the type checker
    return result
