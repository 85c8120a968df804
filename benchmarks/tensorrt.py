"""The whole of the TensorRT path on a machine with a GPU: plan, server, parity, speed.

    make gpu-check
    python -m benchmarks.tensorrt bert-base bert-large

For each model and each way to batch: the plan is built and its answers compared with the checkpoint's; then, with texts
of 128 and of 384 tokens, the time that the plan takes for one text (Triton's own account of the plan's model, one
caller), the time of a whole call, the tokens a second of the ensemble at saturation, and those of the plan alone, asked
with full calls past the tokenizer and the packing, and their share of a large matrix product. Medians are over
rounds. Where TensorRT is missing it says so, and
runs the torch engine's benchmark instead; without a GPU it ends with an error.
"""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.checkpoints import CHECKPOINTS, build_minilm
from benchmarks.report import write
from tritext.bench import metrics
from tritext.bench.lengths import texts_of
from tritext.bench.measure import Closed, Conditions, measure
from tritext.bench.served import Served
from tritext.bench.traffic import traffic
from tritext.build import BuildOptions, build
from tritext.build.gate import Bounds
from tritext.build.options import Batching
from tritext.build.source import locate
from tritext.client import wire
from tritext.engines import tensorrt_builder
from tritext.engines.gpu import tensorrt_version, this_machine
from tritext.engines.plan import Recipe
from tritext.engines.shapes import Shape
from tritext.errors import EngineError
from tritext.repository import BuiltModel
from tritext.serve import Server
from tritext.serve.ensemble import plan_folder
from tritext.serve.prepare import prepare

LENGTHS: Final = (128, 384)
ROUNDS: Final = 5
CALLERS: Final = 8  # of the plan alone
SATURATED: Final = (64, 8)  # callers, texts a request
NOTHING: Final = Bounds(agreement=0.0, drift=float("inf"))  # of random weights; their shape and speed are asked
DEMO: Final = Path(".demo/checkpoints")


def bert_large(out: Path) -> Path:
    """BERT-large's shape (24 layers of 1024, 16 heads) with random weights, and the demo's tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    if not (out / "config.json").exists():
        config = BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
        BertForSequenceClassification(config).save_pretrained(out)
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            shutil.copyfile(build_minilm(DEMO / "spam") / name, out / name)
    return out


MODELS: Final[dict[str, Callable[[Path], Path]]] = {**CHECKPOINTS, "bert-large": bert_large}


@contextmanager
def served(checkpoint: Path, batching: Batching, precision: str, folder: Path) -> Iterator[tuple[BuiltModel, Server]]:
    """The ensemble, ready and checked against the reference."""
    options = BuildOptions(
        "gpu_check", folder, engine="tensorrt", precision=precision, batching=batching, bounds=NOTHING
    )
    model = build(locate(str(checkpoint)), options).model
    prepare([model])
    with Server(folder, grpc_port=0, http_port=0, metrics_port=0) as server:
        server.wait_ready()
        yield model, server


class Subject:
    """One served model, asked with texts of one length."""

    def __init__(self, model: BuiltModel, server: Server, length: int, conditions: Conditions) -> None:
        self._server, self._length, self._conditions = server, length, conditions
        folder = plan_folder(model)
        if folder is None:
            raise SystemExit(f"{model.name} has no plan.")
        self._plan, self._recipe = folder.parent.name, Recipe.read(folder)
        self._served = Served(server.grpc_url, model.name, 60.0)

    def one_round(self) -> dict[str, float]:
        """Every figure once."""
        before = self._account()
        single = self._ensemble(1, 1)
        after = self._account()
        calls = after[1] - before[1]
        bare = self._bare()
        full = self._ensemble(*SATURATED)
        return {
            "plan, one text, ms": (after[0] - before[0]) / calls / 1e3 if calls else float("nan"),
            "ensemble, one text, p50 ms": single.p50 or float("nan"),
            "plan alone, tokens/s": bare,
            "ensemble, tokens/s": full.tokens_per_second,
            "ensemble ÷ plan": full.tokens_per_second / bare,
            "ensemble, texts/s": full.requests_per_second * SATURATED[1],
        }

    def _ensemble(self, callers: int, batch_size: int) -> Any:
        served = self._served
        lengths = np.full(512, self._length)
        texts = texts_of(lengths, lambda some: served.count(some, {}), 0)
        counts = served.count(texts, {})
        sent = traffic(served.encoder({}), texts, counts, batch_size=batch_size, max_length=served.info.max_length)
        return measure(served, sent, Closed(callers), self._conditions, None).client

    def _account(self) -> tuple[float, float]:
        """Microseconds that the plan's model has computed so far, and its executions."""
        counters = metrics.read(self._server.metrics_url)
        return (
            counters.get(("nv_inference_compute_infer_duration_us", self._plan), 0.0),
            counters.get(("nv_inference_exec_count", self._plan), 0.0),
        )

    def _bare(self) -> float:
        """Tokens a second of full calls to the plan's own model, `CALLERS` at once."""
        arrays = self._full_call()
        size = int(arrays["input_ids"].size)
        grpc = wire.grpc()
        with wire.open_channel(grpc, self._server.grpc_url, None) as channel, ThreadPoolExecutor(CALLERS) as pool:
            ask = wire.stub(channel).ModelInfer
            request = wire.messages().ModelInferRequest(model_name=self._plan)
            for name, array in arrays.items():
                request.inputs.add(name=name, datatype="INT32", shape=array.shape)
                request.raw_input_contents.append(array.tobytes())
            list(pool.map(lambda _: ask(request, timeout=60), range(4 * CALLERS)))
            deadline, done = time.monotonic() + self._conditions.seconds, 0
            begun = time.monotonic()
            while time.monotonic() < deadline:
                done += len(list(pool.map(lambda _: ask(request, timeout=60), range(4 * CALLERS))))
            return done * size / (time.monotonic() - begun)

    def _full_call(self) -> dict[str, NDArray[np.int32]]:
        """The largest call that holds texts of this length, every position a token."""
        profiles = [p for p in self._recipe.profiles() if p["input_ids"][2][-1] >= self._length]
        width = min(p["input_ids"][2][-1] for p in profiles)
        largest = max((p for p in profiles if p["input_ids"][2][-1] == width), key=lambda p: p["input_ids"][2][-2])
        return {name: _filling(name, shapes[2]) for name, shapes in largest.items()}


def _filling(name: str, shape: Shape) -> NDArray[np.int32]:
    """One text a row."""
    if name == "first_tokens":
        return np.zeros(shape, np.int32)
    if name == "position_ids":
        return np.broadcast_to(np.arange(shape[-1], dtype=np.int32), shape).copy()
    if name == "input_ids":
        return np.random.default_rng(0).integers(5, 1000, shape, dtype=np.int32)
    return np.full(shape, int(name != "token_type_ids"), np.int32)


def check(name: str, checkpoint: Path, precision: str, *, rounds: int = ROUNDS, lengths: Sequence[int] = LENGTHS,
          conditions: Conditions | None = None) -> dict[str, Any]:  # fmt: skip
    """All figures of one checkpoint, medians over `rounds`."""
    found: dict[str, Any] = {}
    for batching in get_args(Batching):
        with TemporaryDirectory() as folder, served(checkpoint, batching, precision, Path(folder)) as (model, server):
            checked = server.checked[0]
            found[f"{name}, {batching}: logits within"] = checked.difference
            for length in lengths:
                subject = Subject(model, server, length, conditions or Conditions(seconds=5, warmup=1))
                several = [subject.one_round() for _ in range(rounds)]
                for figure in several[0]:
                    median = statistics.median(each[figure] for each in several)
                    found[f"{name}, {length} tokens, {batching}: {figure}"] = median
    return found


def shares(found: dict[str, Any], name: str, checkpoint: Path) -> dict[str, float]:
    """Of what the GPU can multiply in half precision at all, for every figure of tokens a second."""
    import torch
    from transformers import AutoConfig

    from benchmarks.gpu import ceiling, operations

    if not torch.cuda.is_available():
        print("torch sees no CUDA device here, so without the share of the ceiling.", file=sys.stderr)
        return {}
    limit = statistics.median(ceiling("cuda", "fp16", 4096)() for _ in range(ROUNDS))
    config = AutoConfig.from_pretrained(checkpoint)
    added = {f"{name}: ceiling, TFLOP/s": limit / 1e12}
    for figure, value in found.items():
        if figure.endswith("tokens/s"):
            length = int(figure.split(", ")[1].split()[0])
            a_token = operations(config, np.array([length])) / length
            added[f"{figure}, share of the ceiling"] = value * a_token / limit
    return added


def main(names: Sequence[str]) -> None:
    """Check every model named, print a table, keep the figures."""
    if tensorrt_version() is None:
        print("TensorRT is not installed here; measuring the torch engine instead.", file=sys.stderr)
        checkpoint = CHECKPOINTS["bert-base"](DEMO / "bert-base")
        raise SystemExit(subprocess.run([sys.executable, "-m", "benchmarks.gpu", checkpoint], check=False).returncode)
    try:
        machine = this_machine()
        tensorrt_builder.load()  # before minutes of building
    except EngineError as error:
        raise SystemExit(str(error)) from error
    about = {"tensorrt": machine.tensorrt, "gpu": machine.gpu, "cuda": machine.cuda, "rounds": ROUNDS}
    found: dict[str, Any] = {}
    for name in names:
        checkpoint = MODELS[name](DEMO / name)
        measured = check(name, checkpoint, "fp16")
        found |= measured | shares(measured, name, checkpoint)
        write("tensorrt", f"python -m benchmarks.tensorrt {' '.join(names)}", {"device": about, "figures": found})
    table = Table("figure", "median", title=str(machine))
    for figure, value in found.items():
        table.add_row(figure, f"{value:,.4g}")
    Console().print(table)


if __name__ == "__main__":
    unknown = set(sys.argv[1:]) - set(MODELS)
    if unknown or len(sys.argv) < 2:
        raise SystemExit(f"usage: python -m benchmarks.tensorrt {'|'.join(MODELS)} …")
    main(sys.argv[1:])
