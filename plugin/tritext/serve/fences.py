"""What stands in front of Triton: a fence before each of its ports."""

import itertools
from collections.abc import Callable
from pathlib import Path

from tritext import calls
from tritext.admission import board_path, boards
from tritext.calls import Calls
from tritext.errors import ServeError
from tritext.serve.doorway import Doorway
from tritext.serve.endpoints import Endpoints
from tritext.serve.grpc_fence import GrpcFence
from tritext.serve.http_fence import HttpFence
from tritext.serve.shedding import Shedder
from tritext.serve.tls import Tls


def start_fences(
    endpoints: Endpoints, tls: Tls | None, segments: str, goal: float, build_of: Callable[[str], str | None]
) -> list[Doorway]:
    """One before each of Triton's servers that listens at an inner port; whoever reads metrics sends nothing.

    `segments` is how the names of its shared memory begin, `goal` its latency goal, `build_of` gives the build of a
    model that is served, None where it is not. ServeError where a port was taken meanwhile.
    """

    def board(model: str) -> Path | None:
        build = build_of(model)
        return None if build is None else board_path(boards(segments), model, build)

    table = calls.path(segments)
    numbers = itertools.count(1)
    context = None if tls is None else tls.context
    started: list[Doorway] = []
    try:
        made = _made(table)
        shedders = [Shedder(made, goal, board) for _ in range(3)]  # each belongs to one event loop
        fences: list[Doorway] = [
            HttpFence(endpoints.reached_http, endpoints.http, endpoints.inner_http, numbers, shedders[0]),
            HttpFence(endpoints.address, endpoints.metrics, endpoints.inner_metrics, numbers, shedders[1], max_body=0),
        ]
        if endpoints.inner_grpc:
            address, port, inner = endpoints.address, endpoints.grpc, endpoints.inner_grpc
            fences.append(GrpcFence(address, port, inner, numbers, made, shedders[2], context))
        for fence in fences:
            fence.start()
            started.append(fence)
    except ServeError:
        for fence in started:
            fence.stop()
        table.unlink(missing_ok=True)
        raise
    return started


def _made(table: Path) -> Calls:
    try:
        return Calls(table)
    except OSError as error:
        raise ServeError(f"{table.parent} has no room for a small table: {error.strerror}. Make it larger.") from error
