"""The connection's raw material: gRPC and Triton's messages, imported when first needed, and channel options.

Importing gRPC and tritonclient takes about a quarter of a second, which `import tritext` should not cost. They
have no types either, so what leaves here is Any and stays inside this package.
"""

import importlib
import os
from typing import Any, Final

from tritext import access

_MINUTE_MS: Final = 60_000
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})

CHANNEL_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    # An answer may be larger than gRPC's default of 4 MiB: entities repeat their text. What is sent has no limit.
    ("grpc.max_receive_message_length", -1),
    # Triton hangs up on who pings more often than every 5 minutes while nothing is sent (its default).
    ("grpc.keepalive_time_ms", 6 * _MINUTE_MS),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A server that restarts is found again within a second or two; the default backs off up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Its own connection: clients in one process do not queue behind each other.
    ("grpc.use_local_subchannel_pool", 1),
)


def messages() -> Any:
    """The module of Triton's protobuf messages."""
    return importlib.import_module("tritonclient.grpc.service_pb2")


def stub(channel: Any) -> Any:
    """Triton's service over a channel of `grpc` or `grpc.aio`."""
    return importlib.import_module("tritonclient.grpc.service_pb2_grpc").GRPCInferenceServiceStub(channel)


def grpc() -> Any:
    """The module `grpc`, told to keep to itself what is no error: a server that goes away is an exception of ours."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    return importlib.import_module("grpc")


def open_channel(library: Any, address: str, credentials: Any) -> Any:
    """A channel of `library` (`grpc` or `grpc.aio`): encrypted where `credentials` are given. Connects later."""
    options = CHANNEL_OPTIONS
    if address.rpartition(":")[0] in _LOOPBACK:
        options = (*options, ("grpc.enable_http_proxy", 0))  # gRPC would ask http_proxy for this very machine
    if credentials is None:
        return library.insecure_channel(address, options=options)
    return library.secure_channel(address, credentials, options=options)


def metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What goes along with every call. InvalidInput where `api_key` cannot be one."""
    return tuple(access.headers(api_key).items())


def status(error: Any) -> tuple[str, str]:
    """The name of the StatusCode of an RpcError, and its sentence. A call that this side cancelled has no code."""
    code = error.code() if hasattr(error, "code") else None
    if code is None:
        return "CANCELLED", "The connection was closed."
    return code.name, error.details() or ""
