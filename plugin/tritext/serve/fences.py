"""What stands in front of Triton: a fence before each of its ports."""

from pathlib import Path

from tritext.errors import ServeError
from tritext.given_up import GivenUp
from tritext.serve.doorway import Doorway
from tritext.serve.endpoints import Endpoints
from tritext.serve.grpc_fence import GrpcFence
from tritext.serve.http_fence import HttpFence
from tritext.serve.tls import Tls


def start_fences(endpoints: Endpoints, tls: Tls | None, table: Path) -> list[Doorway]:
    """One before each of Triton's servers that listens at an inner port; whoever reads metrics sends nothing.

    Calls over gRPC that are given up are noted in `table`. ServeError where a port was taken meanwhile.
    """
    context = None if tls is None else tls.context
    started: list[Doorway] = []
    try:
        fences: list[Doorway] = [
            HttpFence(endpoints.reached_http, endpoints.http, endpoints.inner_http),
            HttpFence(endpoints.address, endpoints.metrics, endpoints.inner_metrics, max_body=0),
        ]
        if endpoints.inner_grpc:
            address, port, inner = endpoints.address, endpoints.grpc, endpoints.inner_grpc
            fences.append(GrpcFence(address, port, inner, _made(table), context))
        for fence in fences:
            fence.start()
            started.append(fence)
    except ServeError:
        for fence in started:
            fence.stop()
        table.unlink(missing_ok=True)
        raise
    return started


def _made(table: Path) -> GivenUp:
    try:
        return GivenUp(table)
    except OSError as error:
        raise ServeError(f"{table.parent} has no room for a small table: {error.strerror}. Make it larger.") from error
