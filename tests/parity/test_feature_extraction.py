"""Served vectors are those of sentence-transformers: the same direction to five digits, and the same length."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hard_texts import SINGLE
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from serving import Served, serving

from building import make_checkpoint, quick_build, text_inputs
from demo.spam import encoder_dir
from tritext import Client
from tritext.build.checkpoint import Overrides
from tritext.errors import CheckpointError, InvalidInput
from tritext.pipeline import Pipeline, Trace
from tritext.stages.base import Request

COSINE = 0.99999
PROMPTS = {"query": "Frage: ", "passage": ""}
# By name: the architecture, the pooling, what comes behind it (or before the texts), and the engine.
VARIANTS: dict[str, tuple[str, str, str, str]] = {
    "bert": ("bert", "mean", "", "openvino"),
    "xlm-roberta": ("xlm-roberta", "cls", "dense normalize", "openvino"),  # as LaBSE and BGE are
    "mpnet": ("mpnet", "mean", "normalize", "onnxruntime"),
    "distilbert": ("distilbert", "max", "default prompt", "openvino"),
    "torch": ("roberta", "mean", "dense", "torch"),
    "torch-max": ("electra", "max", "normalize", "torch"),
}


def write(folder: Path, architecture: str, pooling: str, behind: str) -> Path:
    """A directory as sentence-transformers itself writes it."""
    torch.manual_seed(0)
    checkpoint = make_checkpoint(folder / "encoder", "none", architecture=architecture)
    encoder = modules.Transformer(str(checkpoint))
    layers = [encoder, modules.Pooling(32, pooling_mode=pooling)]
    layers += [modules.Dense(32, 24)] if "dense" in behind else []
    layers += [modules.Normalize()] if "normalize" in behind else []
    default = "query" if "default prompt" in behind else None
    made = SentenceTransformer(modules=layers, prompts=PROMPTS, default_prompt_name=default, device="cpu")
    made.save(str(folder / "sentences"))
    return folder / "sentences"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sentences")
    made = {name: write(root / name, *variant[:3]) for name, variant in VARIANTS.items()}
    return {**made, "minilm": encoder_dir()}


@pytest.fixture(scope="module")
def served(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    repository = tmp_path_factory.mktemp("models")
    for name, folder in folders.items():
        quick_build(folder, repository, name, engine=VARIANTS[name][3] if name in VARIANTS else "openvino")
    with serving(repository) as served:
        yield served


@pytest.fixture(scope="module")
def reference(folders: dict[str, Path]) -> Callable[..., NDArray[np.float32]]:
    known: dict[str, SentenceTransformer] = {}

    def encode(name: str, texts: list[str], **options: object) -> NDArray[np.float32]:
        if name not in known:
            known[name] = SentenceTransformer(str(folders[name]), device="cpu")
        return np.stack([known[name].encode([text], **options)[0] for text in texts])

    return encode


def check(got: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    norms = np.linalg.norm(got, axis=1), np.linalg.norm(expected, axis=1)
    assert got.shape == expected.shape
    assert ((got * expected).sum(axis=1) / (norms[0] * norms[1])).min() >= COSINE
    np.testing.assert_allclose(*norms, rtol=1e-4)


@pytest.mark.parametrize("name", [*VARIANTS, "minilm"])
def test_vectors_are_those_of_sentence_transformers(
    name: str, served: Served, reference: Callable[..., NDArray[np.float32]]
) -> None:
    answer = served.infer(name, {"TEXT": [[text] for text in SINGLE]})
    expected = reference(name, list(SINGLE))
    check(answer["EMBEDDING"], expected)
    assert answer["COUNT"][:, 0].tolist() == [expected.shape[1]] * len(SINGLE)
    check(
        served.infer(name, {"TEXT": [[text] for text in SINGLE[:8]]}, normalize="true")["EMBEDDING"],
        reference(name, list(SINGLE[:8]), normalize_embeddings=True),
    )


def test_length_one_is_the_default_where_the_checkpoint_says_so(served: Served) -> None:
    """And only there."""
    for name, is_unit in (("minilm", True), ("bert", False)):
        for sent, expected in (({}, is_unit), ({"normalize": not is_unit}, not is_unit)):
            (vector,) = served.infer(name, {"TEXT": [["a text"]]}, **sent)["EMBEDDING"]
            assert (abs(np.linalg.norm(vector) - 1) < 1e-5) == expected


def test_prompts_are_put_before_each_text(served: Served, reference: Callable[..., NDArray[np.float32]]) -> None:
    texts = ["wer?", "was ist das", ""]
    rows = {"TEXT": [[text] for text in texts]}
    plain = reference("bert", texts)
    for options in ({"prompt_name": "query"}, {"prompt": "Frage: "}):
        check(served.infer("bert", rows, **options)["EMBEDDING"], reference("bert", texts, **options))
    check(served.infer("bert", rows, prompt_name="passage")["EMBEDDING"], plain)
    assert np.abs(served.infer("bert", rows, prompt="Frage: ")["EMBEDDING"] - plain).max() > 0.01
    with pytest.raises(
        InvalidInput, match=r"'qery', which is no prompt of this model\. It has 'document', 'passage', 'query'"
    ):
        served.infer("bert", rows, prompt_name="qery")


def test_the_default_prompt_is_put_before_each_text(
    served: Served, reference: Callable[..., NDArray[np.float32]]
) -> None:
    """Where a request names no other, and none by saying so."""
    texts = ["wer?", "was ist das", ""]
    rows = {"TEXT": [[text] for text in texts]}
    prompted = served.infer("distilbert", rows)["EMBEDDING"]
    check(prompted, reference("distilbert", texts))
    check(prompted, reference("distilbert", [f"Frage: {text}" for text in texts], prompt=""))
    for options in ({"prompt": "Antwort: "}, {"prompt": ""}, {"prompt_name": "passage"}):
        vectors = served.infer("distilbert", rows, **options)["EMBEDDING"]
        check(vectors, reference("distilbert", texts, **options))
        assert np.abs(vectors - prompted).max() > 0.01


def test_the_client_knows_that_there_are_no_pairs(served: Served) -> None:
    with Client(served.server.grpc_url) as client, pytest.raises(InvalidInput, match="takes single texts, not pairs"):
        client.classify("minilm", [("a", "b")])


def test_a_pooler_that_is_not_in_the_file_is_not_missed(tmp_path: Path) -> None:
    """Checkpoints of embeddings often lack it, and nothing is read off it."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "none")
    vectors = []
    for name in ("with", "without"):
        model = quick_build(checkpoint, tmp_path / "repository", name, overrides=Overrides(pooling="cls")).model
        (trace,) = Pipeline.load(model).run([Request(text_inputs(["Daß Vögel fliegen", ""]))])
        assert isinstance(trace, Trace)
        vectors.append(trace.tensors["EMBEDDING"])
        weights = load_file(checkpoint / "model.safetensors")
        kept = {key: value for key, value in weights.items() if not key.startswith("pooler.")}
        assert (len(kept) < len(weights)) == (name == "with")
        save_file(kept, checkpoint / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(*vectors)


def test_a_plain_encoder_needs_to_be_told_its_pooling(
    tmp_path: Path, reference: Callable[..., NDArray[np.float32]]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "none")
    with pytest.raises(CheckpointError, match=r"does not say how.*--pooling mean, cls or max"):
        quick_build(checkpoint, tmp_path / "repository")
    with pytest.raises(CheckpointError, match="--pooling sum is none; there are mean, cls, max"):
        quick_build(checkpoint, tmp_path / "repository", overrides=Overrides(pooling="sum"))
    built = quick_build(checkpoint, tmp_path / "repository", overrides=Overrides(pooling="mean"))
    assert built.manifest.task == "feature-extraction"


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("1_Pooling/config.json", '{"pooling_mode": "lasttoken"}', "pools by lasttoken; tritext pools by one of mean"),
        ("1_Pooling/config.json", '{"pooling_mode": ["cls", "max"]}', "pools by cls and max"),
        ("1_Pooling/config.json", '{"include_prompt": false}', "leaves the prompt's tokens out of the pooling"),
        ("modules.json", '[{"type": "a.StaticEmbedding", "path": ""}]', "lists StaticEmbedding"),
        ("modules.json", '[{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../x"}]', "outside"),
        ("modules.json", "{}", "is not a JSON list of modules"),
        ("sentence_bert_config.json", '{"do_lower_case": true}', "asks for do_lower_case"),
    ],
)
def test_what_is_not_served_is_refused_by_name(file: str, content: str, sentence: str, tmp_path: Path) -> None:
    folder = write(tmp_path, "bert", "mean", "")
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=sentence):
        quick_build(folder, tmp_path / "repository")
