"""One repository with every model, one server for those that are served, one reference for each checkpoint."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
import tritonclient.grpc as triton
from asking import Ask, InProcess, OverGrpc
from reference import Reference
from zoo import VARIANTS, Zoo

from tritext.pipeline import Pipeline
from tritext.serve import Server


@pytest.fixture(scope="session", autouse=True)
def _small_models_on_few_cores() -> None:
    """For tiny models a second thread costs more than it does."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return Zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def reference(zoo: Zoo) -> Callable[[str], Reference]:
    """The reference of a variant, by name."""
    known: dict[Path, Reference] = {}

    def get(name: str) -> Reference:
        checkpoint = zoo.checkpoint(name)
        if checkpoint not in known:
            known[checkpoint] = Reference(checkpoint, is_tokens=VARIANTS[name].is_tokens)
        return known[checkpoint]

    return get


@pytest.fixture(scope="session")
def server(zoo: Zoo) -> Iterator[Server]:
    """The real Triton with every served variant."""
    names = [name for name, variant in VARIANTS.items() if variant.served]
    for name in names:
        zoo.model(name)
    # A machine that is busy with something else is no overload here.
    with Server(zoo.repository, models=names, grpc_port=0, http_port=0, metrics_port=0, latency_goal=60) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="session")
def ask(zoo: Zoo, request: pytest.FixtureRequest) -> Callable[[str, str], Ask]:
    """How to ask a variant, by name, "in process" or "over gRPC"."""
    loaded: dict[str, InProcess] = {}

    def get(name: str, way: str) -> Ask:
        if way == "over gRPC":
            return OverGrpc(request.getfixturevalue("client"), name)
        if name not in loaded:
            loaded[name] = InProcess(Pipeline.load(zoo.model(name)))
        return loaded[name]

    return get
