"""Who takes part, and how each is started, asked and read."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.peers.setup import ENVIRONMENTS

SERVERS: Final = Path(__file__).parent / "servers"
Family = Literal["tritext", "as users run it", "like for like"]


@dataclass(frozen=True)
class Http:
    """One text a POST of JSON: how the body is made, and where the label is in the answer."""

    path: str
    body: Callable[[str], Any]
    label: Callable[[Any], str]


@dataclass(frozen=True)
class Triton:
    """One text a gRPC request: TEXT [1, 1] to the model, its LABEL [1, 1] back."""

    model: str


@dataclass(frozen=True)
class Peer:
    """`command` has {checkpoint}, {exported} (the checkpoint for ONNX Runtime) and {port} to be filled in.

    ``environment`` is one of `setup.names`, or None for this one. ``precision`` is None where the build chooses it,
    ``build`` what `tritext build` gets. ``packages`` are those whose versions say what was measured.
    """

    name: str
    title: str
    family: Family
    precision: str | None
    environment: str | None
    command: tuple[str, ...]
    protocol: Http | Triton
    packages: tuple[str, ...]
    build: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        """Whether it is tritext itself."""
        return self.family == "tritext"

    @property
    def can_be_paused(self) -> bool:
        """Whether its processes may be stopped while others are measured. Triton takes stopped steps for dead."""
        return isinstance(self.protocol, Http)


_ITEM: Final = Http("/classify", lambda text: {"text": text}, lambda answer: str(answer["label"]))
_INFINITY: Final = Http(
    "/classify",
    lambda text: {"model": "peer", "input": [text]},
    lambda answer: str(max(answer["data"][0], key=lambda each: float(each["score"]))["label"]),
)
_TORCH: Final = ("transformers", "torch")
_ONNX: Final = ("onnxruntime", "transformers")


def _script(file: str, source: str, *options: str) -> tuple[str, ...]:
    return ("{python}", str(SERVERS / file), source, "{port}", *options)


def _infinity(source: str, engine: str, dtype: str) -> tuple[str, ...]:
    # From inside the folder: its ONNX engine takes the name of a file for a path below the folder.
    where = ("--model-id", ".", "--served-model-name", "peer", "--host", "127.0.0.1", "--port", "{port}")
    # A batch of 32 texts is padded to its longest; 8 loses less to that and keeps two cores as busy.
    how = ("--engine", engine, "--device", "cpu", "--dtype", dtype, "--batch-size", "8", "--no-bettertransformer")
    program = str(ENVIRONMENTS / "infinity" / "bin" / "infinity_emb")
    # Its own warm-up fails with the ONNX engine: texts longer than the model takes, which only the torch engine cuts.
    quiet = ("--no-model-warmup", "--log-level", "warning")
    return ("/usr/bin/env", f"--chdir={source}", program, "v2", *where, *how, *quiet)


def _peers() -> list[Peer]:
    users: Family = "as users run it"
    like: Family = "like for like"
    shared, fastapi = "transformers", ("fastapi", "uvicorn")
    pipeline, exported = "{checkpoint}", "{exported}"
    infinity = ("infinity-emb", "transformers", "torch")
    return [
        Peer("fastapi", "FastAPI + pipeline, one by one", users, "fp32", shared,
             _script("fastapi_pipeline.py", pipeline), _ITEM, (*fastapi, *_TORCH)),
        Peer("fastapi-batched", "FastAPI + pipeline, dynamic batches", users, "fp32", shared,
             _script("fastapi_batched.py", pipeline), _ITEM, (*fastapi, *_TORCH)),
        Peer("litserve", "LitServe + pipeline, batches", users, "fp32", shared,
             _script("litserve_pipeline.py", pipeline), _ITEM, ("litserve", *_TORCH)),
        Peer("infinity", "infinity, torch", users, "fp32", "infinity",
             _infinity(pipeline, "torch", "float32"), _INFINITY, infinity),
        Peer("pytriton", "PyTriton + pipeline, batches", users, "fp32", shared,
             _script("pytriton_pipeline.py", pipeline), Triton("peer"), ("nvidia-pytriton", *_TORCH)),
        Peer("naive-triton", "Triton ensemble that pads to the longest", users, "fp32", None,
             _script("naive_triton.py", exported), Triton("peer"), ("nvidia-pytriton", *_ONNX)),
        Peer("fastapi-bf16", "FastAPI + pipeline, one by one", like, "bf16", shared,
             _script("fastapi_pipeline.py", pipeline, "bfloat16"), _ITEM, (*fastapi, *_TORCH)),
        Peer("fastapi-int8", "FastAPI + ONNX Runtime, sorted batches", like, "int8", shared,
             _script("fastapi_onnx.py", exported), _ITEM, (*fastapi, *_ONNX)),
        Peer("litserve-int8", "LitServe + ONNX Runtime, sorted batches", like, "int8", shared,
             _script("litserve_onnx.py", exported), _ITEM, ("litserve", *_ONNX)),
        Peer("infinity-int8", "infinity, ONNX engine", like, "int8", "infinity",
             _infinity(exported, "optimum", "auto"), _INFINITY, ("infinity-emb", "optimum-onnx", *_ONNX)),
    ]  # fmt: skip


def _ours(name: str, title: str, precision: str | None, *build: str) -> Peer:
    command = (
        "{tritext}",
        "serve",
        "{repository}",
        "--grpc-port",
        "{port}",
        "--http-port",
        "0",
        "--metrics-port",
        "0",
        "--health-port",
        "0",
    )
    packages = ("tritext", "nvidia-pytriton", "openvino", "onnxruntime", "tokenizers")
    return Peer(name, title, "tritext", precision, None, command, Triton("peer"), packages, build)


DEFAULT: Final = "tritext"
PEERS: Final[dict[str, Peer]] = {
    peer.name: peer
    for peer in (
        _ours(DEFAULT, "tritext as it builds by default", None),
        *(
            _ours(f"{DEFAULT}-{precision}", f"tritext {precision}", precision, "--precision", precision)
            for precision in ("fp32", "bf16", "int8")
        ),
        *_peers(),
    )
}


def payload(protocol: Http, text: str) -> bytes:
    """The body of a request."""
    return json.dumps(protocol.body(text)).encode()
