"""The Python client: `Client`, `AsyncClient`, and what they take and give.

Importing this package does not import gRPC; making a client does.
"""

from tritext.client.aio import AsyncClient
from tritext.client.batching import FLUSH
from tritext.client.errors import affected
from tritext.client.options import CallOptions, Options
from tritext.client.results import Classification, Entity, LabelScore, ModelInfo, Result, TokenClassification
from tritext.client.sync import Client

__all__ = [
    "FLUSH",
    "AsyncClient",
    "CallOptions",
    "Classification",
    "Client",
    "Entity",
    "LabelScore",
    "ModelInfo",
    "Options",
    "Result",
    "TokenClassification",
    "affected",
]
