"""The torch engine on a CPU: every architecture's answers against its checkpoint's own, one text at a time.

What a GPU does otherwise is the kernels alone: the removal of padding, where texts begin and the calls of fixed size
are the same here.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedModel

from checkpoints import ARCHITECTURES, HEADS, Architecture, make
from tritext import contract
from tritext.build.texts import parity_texts
from tritext.engines.base import FIRST_TOKENS, POSITION_IDS, SEGMENT_IDS, Graph, Ingredients, RunnerOptions
from tritext.engines.batching import Layout, Sorted, Texts
from tritext.engines.packing import Packed
from tritext.engines.pytorch import ENGINE
from tritext.errors import EngineError

TEXTS = [text for text in parity_texts(pairs=False) if isinstance(text, str)][:24]
CONVOLVED = ARCHITECTURES["deberta-v2"].but(conv_kernel_size=3, conv_act="gelu")
OWN_ATTENTION = ("mpnet", "deberta-v2")

Logits = Sequence[NDArray[np.float32]]


@dataclass(frozen=True)
class Case:
    """A checkpoint's artefact, real requests and what the checkpoint answers to each alone."""

    artefact: Path
    requests: Sequence[Mapping[str, NDArray[np.int32]]]
    expected: Logits
    inputs: tuple[str, ...]
    pad_id: int
    per_text: bool

    @property
    def scale(self) -> float:
        return max(1.0, *(float(np.abs(each).max()) for each in self.expected))

    def answers(self, layout: Layout, precision: Any = "fp32", **engine: Any) -> Logits:
        runner = ENGINE.runner(self.artefact, RunnerOptions(precision, engine=engine))
        texts = Texts.of(self.requests, self.inputs)
        found = {}
        for call in layout.calls(texts, self.pad_id, per_text=self.per_text):
            found.update(call.logits(runner.run(call.arrays)))
        return [found[index] for index in range(len(texts))]

    def difference(self, answers: Logits) -> float:
        """The largest, as a share of the largest logit."""
        return max(float(np.abs(a - b).max()) for a, b in zip(answers, self.expected, strict=True)) / self.scale


def case_of(folder: Path, architecture: Architecture, head: str, *, packed: bool = True) -> Case:
    checkpoint = make(folder / "checkpoint", architecture, HEADS[head])
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    auto_class: Any = getattr(transformers, f"AutoModelFor{HEADS[head].kind}")
    module: PreTrainedModel = auto_class.from_pretrained(checkpoint, attn_implementation="eager").eval()
    encoded = [tokenizer(text, truncation=True, return_tensors="np") for text in TEXTS]
    requests = [{name: array.astype(np.int32) for name, array in each.items()} for each in encoded]
    per_text = HEADS[head].kind == "SequenceClassification"
    expected = []
    for request in requests:
        with torch.inference_mode():
            given = {name: torch.from_numpy(array).long() for name, array in request.items()}
            expected.append(module(**given).logits[0].numpy())
    names = tuple(t.name for t in contract.ENCODER_INPUTS if t.name in requests[0])
    extra = (POSITION_IDS, SEGMENT_IDS, *([FIRST_TOKENS] if per_text else []))
    kept = tuple(name for name in names if name != contract.ATTENTION_MASK.name)
    graph = Graph(Path("not used"), (*kept, *extra) if packed else names, packed)
    artefact = ENGINE.build(Ingredients(graph, module), "fp32", folder)
    return Case(folder / artefact.file, requests, expected, names, tokenizer.pad_token_id or 0, per_text)


Cases = Callable[[str, str], Case]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    """Of an architecture and a head, made once."""
    return cache(lambda name, head: case_of(tmp_path_factory.mktemp(name), ARCHITECTURES[name], head))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For so small models two cost more than they give, on a busy machine ten times so."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bert(cases: Cases) -> Case:
    return cases("bert", "single")


@pytest.mark.parametrize("head", ["single", "tokens"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_answers_are_the_checkpoints_own(name: str, head: str, cases: Cases) -> None:
    case = cases(name, head)
    assert case.difference(case.answers(Packed(400, 2))) < 1e-4  # rows longer than any position that the model has
    assert case.difference(case.answers(Packed(1, 1))) < 1e-4  # a row for each text
    rounded = case.difference(case.answers(Packed(128, 4), "bf16"))
    print(f"{name}.{head} bf16: {rounded:.1e} of the scale")
    assert 1e-4 < rounded < 0.1  # random networks round worse than trained ones


@pytest.mark.parametrize("head", ["single", "tokens"])
@pytest.mark.parametrize("name", ["bert", *OWN_ATTENTION])
def test_calls_of_fixed_size_give_the_same_answers(name: str, head: str, cases: Cases) -> None:
    """Of one text, of several, and some that are larger than any fixed size."""
    for layout in (Packed(1, 1), Packed(64, 2)):
        assert cases(name, head).difference(cases(name, head).answers(layout, graphs=(16, 64, 128))) < 1e-4


@pytest.mark.parametrize("head", ["single", "tokens"])
def test_a_model_that_cannot_be_packed_gets_padded_rows(head: str, tmp_path: Path) -> None:
    case = case_of(tmp_path, CONVOLVED, head, packed=False)
    assert case.difference(case.answers(Sorted(256))) < 1e-4


def test_who_shares_a_row_does_not_matter(bert: Case) -> None:
    among_others, alone = bert.answers(Packed(512, 1)), bert.answers(Packed(1, 1))
    fewer = replace(bert, requests=bert.requests[::3], expected=bert.expected[::3]).answers(Packed(512, 1))
    for index, answer in enumerate(among_others):
        assert np.abs(answer - alone[index]).max() < 1e-5 * bert.scale
        if index % 3 == 0:
            assert np.abs(answer - fewer[index // 3]).max() < 1e-5 * bert.scale


@pytest.mark.parametrize("graphs", [(), (16, 64, 128)])
@pytest.mark.parametrize("name", ["bert", "deberta-v2"])
def test_threads_may_ask_at_once(name: str, graphs: tuple[int, ...], cases: Cases) -> None:
    case = cases(name, "single")
    runner = ENGINE.runner(case.artefact, RunnerOptions("fp32", threads=3, streams=3, engine={"graphs": graphs}))
    texts = Texts.of(case.requests, case.inputs)
    calls = list(Packed(64, 1).calls(texts, case.pad_id, per_text=True)) * 4
    with ThreadPoolExecutor(6) as pool:
        outputs = list(pool.map(lambda call: runner.run(call.arrays), calls))
    for call, output in zip(calls, outputs, strict=True):
        for index, logits in call.logits(output):
            assert np.abs(logits - case.expected[index]).max() < 1e-4 * case.scale


def test_half_precision_keeps_the_weights_of_the_artefact(bert: Case) -> None:
    before = (bert.artefact / "model.safetensors").read_bytes()
    rounded, exact = bert.answers(Packed(), "bf16"), bert.answers(Packed())
    assert bert.difference(exact) < 1e-4 < bert.difference(rounded)
    assert (bert.artefact / "model.safetensors").read_bytes() == before


def test_an_answer_is_the_callers_own(bert: Case) -> None:
    runner = ENGINE.runner(bert.artefact, RunnerOptions("fp32"))
    texts = Texts.of(bert.requests[:6], bert.inputs)
    calls = list(Packed(1, 1).calls(texts, bert.pad_id, per_text=True))
    first = runner.run(calls[0].arrays)
    kept = first.copy()
    for call in calls[1:]:
        runner.run(call.arrays)
    assert (first == kept).all()


def test_the_artefact_is_weights_and_words_and_nothing_that_runs(bert: Case) -> None:
    assert {path.name for path in bert.artefact.iterdir()} == {"config.json", "model.safetensors", "packing.json"}
    assert str(bert.artefact.parent) not in (bert.artefact / "config.json").read_text(encoding="utf-8")


LOAD = """
import socket, sys
def refused(*_):
    raise AssertionError("the network was asked")
socket.getaddrinfo = socket.socket.connect = refused
from pathlib import Path
from tritext.engines import engine_named
from tritext.engines.base import RunnerOptions
engine_named("torch").runner(Path(sys.argv[1]), RunnerOptions("fp32"))
print([name for name in ("tritext.build", "onnx", "openvino", "grpc") if name in sys.modules])
"""


def test_it_loads_without_the_network_and_without_what_builds(bert: Case) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(bert.artefact)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert not done.stderr  # no bar, no advice


def test_a_damaged_artefact_is_an_error_that_names_it(tmp_path: Path) -> None:
    case = case_of(tmp_path, ARCHITECTURES["bert"], "single")
    weights = case.artefact / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(EngineError, match=f"cannot load {case.artefact}"):
        ENGINE.runner(case.artefact, RunnerOptions("fp32"))
    weights.unlink()
    with pytest.raises(EngineError, match=f"cannot load {case.artefact}"):
        ENGINE.runner(case.artefact, RunnerOptions("fp32"))


def test_a_class_that_transformers_has_not_is_refused(tmp_path: Path) -> None:
    case = case_of(tmp_path, ARCHITECTURES["bert"], "single")
    config = case.artefact / "config.json"
    text = config.read_text(encoding="utf-8").replace("BertForSequenceClassification", "AutoTokenizer")
    config.write_text(text, encoding="utf-8")
    with pytest.raises(EngineError, match="no model class 'AutoTokenizer'"):
        ENGINE.runner(case.artefact, RunnerOptions("fp32"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"device": "abacus"}, "no device 'abacus'"), ({"devise": "cpu"}, "no option devise")],
)
def test_a_wrong_option_is_said(options: Mapping[str, Any], sentence: str, bert: Case) -> None:
    with pytest.raises(EngineError, match=sentence):
        ENGINE.runner(bert.artefact, RunnerOptions("fp32", engine=options))


def test_without_torch_it_says_what_to_install(bert: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not there
    with pytest.raises(EngineError, match=r"pip install 'tritext\[torch\]'"):
        ENGINE.runner(bert.artefact, RunnerOptions("fp32"))
    assert not ENGINE.automatic()
    assert "pip install" in (ENGINE.lacks("fp32") or "")


def test_auto_takes_it_where_there_is_a_gpu_and_half_precision_needs_one() -> None:
    assert ENGINE.automatic() == torch.cuda.is_available()
    assert (ENGINE.lacks("fp16") is None) == torch.cuda.is_available()
    assert ENGINE.lacks("fp32") is None
