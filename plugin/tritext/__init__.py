"""tritext: raw text in, labels out, on NVIDIA Triton.

>>> from tritext import Client
>>> with Client("localhost:8001") as client:
...     client.classify("spam", ["Win a prize now!"], top_k=2)
"""

from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tritext.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]

_CLIENTS: Final = ("AsyncClient", "Client")


def __getattr__(name: str) -> Any:
    # The stages import this package too, and must not pay for gRPC.
    if name in _CLIENTS:
        from tritext import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
