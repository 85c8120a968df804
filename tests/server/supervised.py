"""A supervised server in this process, and callers that never pause."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from tritext.serve import Server
from tritext.serve.readiness import Readiness
from tritext.serve.rollout import Rollouts
from tritext.serve.supervisor import Supervisor

DEADLINE = 20.0  # seconds for a request; a test machine may be slow


@dataclass(frozen=True)
class Supervised:
    """What runs, and what it has told."""

    server: Server
    supervisor: Supervisor
    url: str  # of the readiness endpoint
    told: list[str]

    def state(self, model: str) -> dict[str, Any]:
        """What is known of `model`."""
        return dict(self.supervisor.status.document()["models"].get(model, {}))


@contextmanager
def supervised(repository: Path, *, step_memory: int | None = None) -> Iterator[Supervised]:
    """A server of `repository` that is watched and follows what is committed there."""
    told: list[str] = []
    with Server(repository, grpc_port=0, http_port=0, metrics_port=0, log=told.append) as server:
        server.wait_ready()
        supervisor = Supervisor(server, told.append, step_memory=step_memory)
        readiness = Readiness(supervisor.status, "127.0.0.1", 0)
        with supervisor, readiness, Rollouts(server, supervisor, told.append):
            yield Supervised(server, supervisor, server.endpoints.url(readiness.port), told)


def ask(url: str, text: str, model: str) -> tuple[str, ...]:
    """Label, score and token count."""
    with triton.InferenceServerClient(url) as client:
        return _ask(client, text, model)


def _ask(client: Any, text: str, model: str) -> tuple[str, ...]:
    tensor = triton.InferInput("TEXT", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()]], dtype=object))
    answer = client.infer(model, [tensor], client_timeout=DEADLINE)
    return answer.as_numpy("LABEL")[0, 0].decode(), f"{answer.as_numpy('SCORE')[0, 0]:.4f}"


@dataclass
class Traffic:
    """What callers met: answers with their times, and errors."""

    answers: list[tuple[float, tuple[str, ...]]] = field(default_factory=list)
    errors: list[tuple[float, str]] = field(default_factory=list)


@contextmanager
def traffic(url: str, model: str, text: str, callers: int = 4) -> Iterator[Traffic]:
    """Ask all the time while the block runs."""
    seen, stopping = Traffic(), threading.Event()

    def run() -> None:
        with triton.InferenceServerClient(url) as client:
            while not stopping.is_set():
                try:
                    seen.answers.append((time.monotonic(), _ask(client, text, model)))
                except triton.InferenceServerException as error:
                    seen.errors.append((time.monotonic(), f"{error.status()} {error.message()}"))
                    stopping.wait(0.05)

    threads = [threading.Thread(target=run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
