"""The Python client: `Client`, `AsyncClient`, and what they take and give.

Importing this package does not import gRPC; making a client does.
"""

from typing import TYPE_CHECKING, Any

from tritext.client import results
from tritext.client.aio import AsyncClient
from tritext.client.batching import FLUSH
from tritext.client.errors import affected
from tritext.client.options import CallOptions, Options
from tritext.client.results import ModelInfo, Result
from tritext.client.sync import Client

if TYPE_CHECKING:
    from tritext.client.results import (
        Answer,
        Answers,
        Classification,
        Embedding,
        Entity,
        Fill,
        FillMask,
        LabelScore,
        Ranked,
        Ranking,
        TokenClassification,
    )

__all__ = [
    "FLUSH",
    "Answer",
    "Answers",
    "AsyncClient",
    "CallOptions",
    "Classification",
    "Client",
    "Embedding",
    "Entity",
    "Fill",
    "FillMask",
    "LabelScore",
    "ModelInfo",
    "Options",
    "Ranked",
    "Ranking",
    "Result",
    "TokenClassification",
    "affected",
]


def __getattr__(name: str) -> Any:
    return getattr(results, name)
