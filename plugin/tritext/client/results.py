"""What a call gives back. All are frozen: they can be kept, shared between threads and compared.

Each task's own result stands in its file under `tritext.tasks`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tritext.results import Result

if TYPE_CHECKING:
    from tritext.tasks.feature_extraction import Embedding
    from tritext.tasks.fill_mask import Fill, FillMask
    from tritext.tasks.question_answering import Answer, Answers
    from tritext.tasks.reranking import Ranked, Ranking
    from tritext.tasks.text_classification import Classification, LabelScore
    from tritext.tasks.token_classification import Entity, TokenClassification

__all__ = [
    "Answer",
    "Answers",
    "Classification",
    "Embedding",
    "Entity",
    "Fill",
    "FillMask",
    "LabelScore",
    "ModelInfo",
    "R",
    "Ranked",
    "Ranking",
    "Result",
    "TokenClassification",
]

R = TypeVar("R", bound=Result)


def __getattr__(name: str) -> Any:
    # Tasks come with numpy, which importing the client does not pay for.
    if not name.startswith("_"):
        from tritext.tasks import TASKS

        for task in TASKS.values():
            for kind in (task.result, task.entry):
                if kind.__name__ == name:
                    return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a served model says of itself.

    ``labels`` are in the order of the checkpoint's class indices, ``max_length`` counts tokens with special
    ones included, ``max_batch_size`` is the most texts in one request.
    """

    name: str
    task: str
    labels: tuple[str, ...]
    max_length: int
    max_batch_size: int
    build: str
