"""Reranking: how well each of some documents answers a query, the best first, by a cross-encoder.

Semantics, names and defaults: sentence-transformers' ``CrossEncoder.rank``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.contract import Tensor
from tritext.errors import CheckpointError
from tritext.parameters import CUT, TOP_K, Cut, Parameters, choice, parameter
from tritext.results import Form
from tritext.settings import TaskSettings
from tritext.tasks.base import Column, FloatArray, Task, column, firsts, pad, sigmoid
from tritext.tasks.inputs import Arrays, Rows, each_with_list
from tritext.text.inputs import TextInput

QUERY: Final = Tensor("QUERY", "BYTES", (1,))
DOCUMENTS: Final = Tensor("DOCUMENTS", "BYTES", (-1,))
INDEX: Final = Tensor("INDEX", "INT32", (-1,))
DOCUMENT: Final = Tensor("document", "INT32", (1,))  # of each row that is encoded: its place in DOCUMENTS


@dataclass(frozen=True, slots=True)
class RerankingParameters(Parameters):
    """``top_k``: how many documents, None for all. ``function_to_apply``: sigmoid unless the checkpoint says none.

    ``truncation_strategy``: which of query and document is cut.
    """

    top_k: int | None = parameter(None, TOP_K)
    function_to_apply: Literal["sigmoid", "none"] = parameter("sigmoid", choice("sigmoid", "none"))
    truncation_strategy: Cut = parameter("longest_first", CUT)


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document, by its place `index` in the documents that were sent."""

    index: int
    score: float

    @property
    def label(self) -> str:
        """For tables."""
        return f"document {self.index}"


@dataclass(frozen=True, slots=True)
class Ranking:
    """The documents for one query, the best first; the rest as in `Classification`."""

    form: ClassVar[Form] = "ranked"
    documents: tuple[Ranked, ...]
    token_count: int
    truncated: bool


class RerankingTask(Task):
    """See the module."""

    name: ClassVar[str] = "reranking"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    inputs: ClassVar[tuple[Tensor, ...]] = (QUERY, DOCUMENTS)
    carried: ClassVar[tuple[Tensor, ...]] = (contract.ROW, DOCUMENT)
    outputs: ClassVar[tuple[Tensor, ...]] = (INDEX, contract.SCORE, contract.COUNT)
    expands: ClassVar[bool] = True
    parameters: ClassVar[type[Parameters]] = RerankingParameters
    result: ClassVar[type[Any]] = Ranking
    entry: ClassVar[type[Any]] = Ranked

    def accept(self, labels: Sequence[str]) -> None:
        """There must be one score."""
        if len(labels) != 1:
            raise CheckpointError(
                f"Reranking needs a cross-encoder, whose only answer is a score; this checkpoint has {len(labels)} "
                "labels. Choose another --task, such as text-classification."
            )

    def defaults(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The function that sentence-transformers wrote down, under the names it had over time."""
        said = config.get("activation_fn") or (config.get("sentence_transformers") or {}).get("activation_fn")
        said = said or config.get("sbert_ce_default_activation_function") or ""
        return {"function_to_apply": "none"} if str(said).endswith(".Identity") else {}

    def rows(self, inputs: Arrays, settings: TaskSettings, parameters: RerankingParameters) -> Rows:
        """A pair of query and document for each document."""
        del settings, parameters
        found = each_with_list(inputs, QUERY.name, DOCUMENTS.name)
        return Rows(
            [(query, document) for _, query, _, document in found],
            [row for row, *_ in found],
            {DOCUMENT.name: np.array([[place] for _, _, place, _ in found], dtype=np.int32)},
            (QUERY.name, DOCUMENTS.name),
        )

    def answer(
        self, logits: FloatArray, arrays: Arrays, settings: TaskSettings, parameters: RerankingParameters
    ) -> dict[str, Any]:
        """INDEX and SCORE [N, K], the best first; `logits` are [M, 1]."""
        del settings
        of, places = arrays[contract.ROW.name][:, 0], arrays[DOCUMENT.name][:, 0]
        values = sigmoid(logits[:, 0]) if parameters.function_to_apply == "sigmoid" else logits[:, 0]
        rows = [np.arange(begin, end) for begin, end in pairwise([*firsts(of), len(of)])]
        # By logits: different ones may have one score.
        ranked = [row[np.argsort(-logits[row, 0], kind="stable")][: parameters.top_k] for row in rows]
        return pad(
            Column(INDEX, [places[row] for row in ranked]), Column(contract.SCORE, [values[row] for row in ranked])
        )

    def scores(self, logits: FloatArray, settings: TaskSettings) -> FloatArray:
        """Between 0 and 1, so that the gate's bound means something for every checkpoint."""
        del settings
        return sigmoid(logits)

    def decisions(self, logits: FloatArray, settings: TaskSettings) -> tuple[NDArray[Any], FloatArray]:
        """Whether a document answers the query."""
        del settings
        return logits > 0, np.abs(logits)

    def references(self, texts: Sequence[TextInput], mask_token: str | None) -> list[TextInput]:
        """Pairs as they are; each single text as a document, with the words that another begins with as query."""
        del mask_token
        kept = [text for text in texts if isinstance(text, tuple) or text.strip()]
        queries = reversed([" ".join(text.split()[:6])[:80] for text in kept if isinstance(text, str)])
        return [text if isinstance(text, tuple) else (next(queries), text) for text in kept]

    def request(
        self, text: str, pair: str | None, settings: TaskSettings
    ) -> tuple[dict[str, NDArray[np.object_]], dict[str, object]]:
        """One query with one document."""
        del settings
        return {QUERY.name: column([text]), DOCUMENTS.name: column([pair or ""])}, {
            "truncation": "right",
            "truncation_strategy": self.cut,
        }


TASK: Final = RerankingTask()
