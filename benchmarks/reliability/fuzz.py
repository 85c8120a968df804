"""A real server under requests that nobody should send, with good traffic beside them.

    python -m benchmarks.reliability.fuzz .demo/repository spam [--requests 20000] [--seed 1]

Half of them go to the HTTP port as raw bytes, half to the gRPC port, one after the other (see hostile.py). The server
must stay the process that it was and answer good traffic, sent all the while, as it did before; the memory that it has
more in the end is reported.
"""

import argparse
import contextlib
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, Self

import grpc
import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks.processes import family, resident
from benchmarks.reliability.company import Caller, Refusal
from benchmarks.reliability.hostile import HTTP, grpc_message
from benchmarks.reliability.requests import Asked, request
from benchmarks.report import write
from tritext.serve import Server
from tritext.serve.ensemble import steps

_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_PATIENCE: Final = 20.0  # seconds for a hostile request
_TEXTS: Final = ("Does this server answer?", "", "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.")


@dataclass(slots=True)
class Report:
    """What was answered how often; what went wrong; how long the slowest took (seconds); memory in MB."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    good: int = 0
    megabytes: tuple[float, float] = (0.0, 0.0)


class Good(threading.Thread):
    """Good traffic, until it is stopped; `wrong` has what was not as before."""

    def __init__(self, url: str, model: str) -> None:
        super().__init__(name="good traffic", daemon=True)
        self._asked = [Asked(request(model, [text])) for text in _TEXTS]
        self._url, self._stopped, self.count, self.wrong = url, threading.Event(), 0, list[str]()

    def run(self) -> None:
        """Ask for the same again and again."""
        with Caller(self._url) as caller:
            before = caller.ask(self._asked, together=False)
            while not self._stopped.wait(0.02):
                for asked, was, now in zip(self._asked, before, caller.ask(self._asked, together=True), strict=True):
                    self.count += 1
                    if isinstance(was, Refusal) or isinstance(now, Refusal):
                        self.wrong.append(f"good traffic was refused: {now}")
                    elif any(not _same(was[name], now[name]) for name in was):
                        self.wrong.append(f"another answer to {list(asked.request.raw_input_contents)}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()


def _same(was: np.ndarray[Any, Any], now: np.ndarray[Any, Any]) -> bool:
    if was.dtype.kind == "f":
        return was.shape == now.shape and bool(np.allclose(was, now, atol=0.05))
    return bool(np.array_equal(was, now))


def send_http(url: str, data: bytes) -> str:
    """The status that raw `data` gets; "closed" where the connection ends without one."""
    host, port = url.removeprefix("http://").rsplit(":", 1)
    with contextlib.suppress(ConnectionError, BrokenPipeError), socket.create_connection((host, int(port))) as caller:
        caller.settimeout(_PATIENCE)
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            caller.sendall(data)
            caller.shutdown(socket.SHUT_WR)  # there is no more to wait for
        try:
            answer = b""
            while piece := caller.recv(1 << 16):
                answer += piece
        except TimeoutError:
            return "silent"
        return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.") else "closed"
    return "closed"


def fuzz(server: Server, name: str, requests: int, seed: int, console: Console | None = None) -> Report:
    """Send `requests`; stops at the first that the server does not survive."""
    random, report = Random(seed), Report()  # noqa: S311 - nothing secret
    model = next(model for model in server.models if model.name == name)
    names = tuple(sorted(steps(model)))
    before = _megabytes(server.process.pid)
    rounds = range(requests)
    with grpc.insecure_channel(server.grpc_url, options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(_METHOD)
        with Good(server.grpc_url, name) as good:
            for number in track(rounds, console=console, description="Fuzzing") if console else rounds:
                kind = random.choice(list(HTTP)) if number % 2 else "gRPC"
                began = time.monotonic()
                if kind == "gRPC":
                    answer = _call(call, grpc_message(random, name, names))
                else:
                    answer = send_http(server.http_url, HTTP[kind](random, name))
                report.slowest = max(report.slowest, (time.monotonic() - began, kind))
                report.answers[f"{kind}: {answer}"] += 1
                if server.process.poll() is not None:
                    report.wrong.append(f"request {number} ({kind}) ended the server")
                    break
        report.good = good.count
        report.wrong += good.wrong
    report.megabytes = (before, _megabytes(server.process.pid))
    return report


def _call(call: Any, message: bytes) -> str:
    try:
        call(message, timeout=_PATIENCE)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _megabytes(pid: int) -> float:
    """Resident, of a process and its children."""
    return sum(map(resident, family(pid)))


def main(repository: Path, name: str, requests: int, seed: int) -> None:
    """Fuzz, print, keep the figures."""
    with Server(repository, models=[name], grpc_port=0, http_port=0, metrics_port=0, log=lambda _: None) as server:
        server.wait_ready()
        report = fuzz(server, name, requests, seed, Console(stderr=True))
    figures = {
        "requests": requests, "answers": dict(sorted(report.answers.items())), "wrong": report.wrong[:20],
        "good_requests": report.good, "slowest_seconds": report.slowest[0], "slowest_kind": report.slowest[1],
        "megabytes_before": report.megabytes[0], "megabytes_after": report.megabytes[1],
    }  # fmt: skip
    Console().print(figures)
    command = f"python -m benchmarks.reliability.fuzz REPOSITORY {name} --requests {requests} --seed {seed}"
    write(f"reliability-fuzz-{name}", command, figures)
    if report.wrong:
        raise SystemExit(f"{len(report.wrong)} things went wrong.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability.fuzz", description=__doc__)
    parser.add_argument("repository", type=Path)
    parser.add_argument("name")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    main(arguments.repository, arguments.name, arguments.requests, arguments.seed)
