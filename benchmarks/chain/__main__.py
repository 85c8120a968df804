"""What Triton itself takes for a chain of Python steps: the least that a call can cost that goes through three.

    python -m benchmarks.chain .demo/repository spam

One caller; ensembles of one, two and three steps that do nothing, whose tensors hold 16 numbers, and one of three whose
middle step calls MODEL's engine on 16 tokens that are always the same. There is no tokenizer, no batching, no fence, no
deadline and there are no metrics. Beside them, in turn: the engine alone, and tritext with a text of 16 tokens, through
its fence and past it.
Medians are over rounds; what is over the engine is formed within a round.
"""

import asyncio
import contextlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.bare import Bare, built
from benchmarks.fence import inner_port, requests
from benchmarks.peers.processes import free_port
from benchmarks.report import write
from benchmarks.serving import serving
from tritext.bench import load
from tritext.bench.http2 import Connection
from tritext.bench.served import METHOD, Served
from tritext.client import wire
from tritext.serve.installation import find

ROUNDS: Final = 7
SECONDS, WARMUP, TIMEOUT = 4.0, 0.5, 30.0
CHAINS: Final = {
    "one step that does nothing": ["nothing1"],
    "two": ["nothing1", "nothing2"],
    "three": ["nothing1", "nothing2", "nothing3"],
    "three, the engine in the middle": ["nothing1", "engine", "nothing3"],
}
ENGINE: Final = "three, the engine in the middle"
THROUGH, PAST = "tritext", "tritext, past its fence"
_TENSOR: Final = "data_type: TYPE_FP32 dims: [ 16 ]"
_ROOT: Final = Path(__file__).parents[2]
_STEP: Final = f"""backend: "python"
max_batch_size: 0
input [ {{ name: "X" {_TENSOR} }} ]
output [ {{ name: "Y" {_TENSOR} }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


def write_repository(folder: Path, repository: Path, model: str) -> None:
    """The steps, and an ensemble for each of `CHAINS`."""
    for name in {step for steps in CHAINS.values() for step in steps}:
        (folder / name / "1").mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("step.py"), folder / name / "1" / "model.py")
        config = f'name: "{name}"\n{_STEP}'
        if name == "engine":
            for key, value in (("root", _ROOT), ("repository", repository.resolve()), ("model", model)):
                config += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        (folder / name / "config.pbtxt").write_text(config, encoding="utf-8")
    for number, steps in enumerate(CHAINS.values()):
        (folder / f"chain{number}" / "1").mkdir(parents=True)
        (folder / f"chain{number}" / "config.pbtxt").write_text(_ensemble(number, steps), encoding="utf-8")


def _ensemble(number: int, steps: list[str]) -> str:
    names = ["X", *(f"between{place}" for place in range(1, len(steps))), "Y"]
    scheduled = "\n".join(
        f'  step {{ model_name: "{step}" model_version: -1 input_map {{ key: "X" value: "{taken}" }} '
        f'output_map {{ key: "Y" value: "{given}" }} }}'
        for step, taken, given in zip(steps, names, names[1:], strict=False)
    )
    tensors = f'input [ {{ name: "X" {_TENSOR} }} ]\noutput [ {{ name: "Y" {_TENSOR} }} ]'
    return f'name: "chain{number}"\nplatform: "ensemble"\n{tensors}\nensemble_scheduling {{\n{scheduled}\n}}\n'


@contextlib.contextmanager
def bare_triton(folder: Path) -> Iterator[str]:
    """Triton on the models in `folder`; its address."""
    installation = find()
    port = free_port()
    command = [
        str(installation.executable), *installation.arguments, "--model-repository=.", "--disable-auto-complete-config",
        "--grpc-address=127.0.0.1", f"--grpc-port={port}", "--allow-http=false", "--allow-metrics=false",
    ]  # fmt: skip
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the server
    process = subprocess.Popen(command, cwd=folder, env=dict(installation.environment), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                faults = "".join(line for line in log if line.startswith(("E", "W", "error")))
                raise SystemExit(f"Triton did not start:\n{faults}")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def payload(model: str) -> bytes:
    """A request for one of the chains."""
    request = wire.messages().ModelInferRequest(model_name=model)
    request.inputs.add(name="X", datatype="FP32", shape=[16])
    request.raw_input_contents.append(np.zeros(16, np.float32).tobytes())
    return bytes(request.SerializeToString())


def p50_ms(address: str, payloads: list[bytes]) -> float:
    """Of one caller."""

    async def main() -> load.Run:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(address, METHOD, TIMEOUT), host, int(port))

        async def send(index: int) -> None:
            await connection.ask(payloads[index % len(payloads)])

        run = await load.closed_loop(send, concurrency=1, seconds=SECONDS, warmup=WARMUP)
        connection.close()
        return run

    run = load.run(main())
    if run.errors:
        raise SystemExit(f"Calls failed: {set(run.errors.values())}")
    return float(np.median(run.latencies)) * 1e3


def main(repository: str, name: str) -> None:
    """Measure, print a table, keep the figures."""
    bare = Bare(built(Path(repository), name))
    single = bare.full(1, 16)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_repository(folder, Path(repository), name)
        triton = stack.enter_context(bare_triton(folder))
        server = stack.enter_context(serving(Path(repository), [name]))
        texts = requests(Served(server.grpc, name, TIMEOUT)).payloads
        asked = {chain: (triton, [payload(f"chain{number}")]) for number, chain in enumerate(CHAINS)}
        asked |= {PAST: (f"127.0.0.1:{inner_port(server.triton)}", list(texts)), THROUGH: (server.grpc, list(texts))}
        rounds = []
        for _ in track(range(ROUNDS), "Measuring", console=Console(stderr=True)):
            engine = statistics.median(bare.seconds(single) for _ in range(300)) * 1e3
            rounds.append({"engine": engine, **{way: p50_ms(*how) for way, how in asked.items()}})
    table = Table("one caller", "p50, ms", "over the engine, ms")
    summary: dict[str, dict[str, float]] = {}
    for way in rounds[0]:
        summary[way] = {"p50_ms": statistics.median(each[way] for each in rounds)}
        if way in {ENGINE, PAST, THROUGH}:
            summary[way]["over_engine_ms"] = statistics.median(each[way] - each["engine"] for each in rounds)
        table.add_row(way, *(f"{value:.2f}" for value in summary[way].values()))
    Console().print(table)
    write(f"chain-{name}", f"python -m benchmarks.chain REPOSITORY {name}", {"summary": summary, "rounds": rounds})


if __name__ == "__main__":
    main(*sys.argv[1:3])
