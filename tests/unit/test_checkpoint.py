"""Reading checkpoints: what is said of the good ones, and the sentence that each bad one gets."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from building import make_checkpoint
from checkpoints import HEADS, MORE_ARCHITECTURES, make
from tritext.build.architectures import REFUSED
from tritext.build.checkpoint import Facts, Overrides, inspect
from tritext.build.source import locate, sentence
from tritext.build.weights import load_model
from tritext.errors import CheckpointError
from tritext.tasks import TASKS

LABELS = ("négatif", "中立", "положительный", "محايد")
Edit = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local checkpoint needs none; whoever tries gets an error that is nobody's sentence."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def facts(folder: Path, **overrides: Any) -> Facts:
    return inspect(locate(str(folder)), Overrides(**overrides))[0]


def configure(folder: Path, **changes: Any) -> Path:
    """Change config.json; None takes a key away."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return folder


def set_tokenizer(folder: Path, **values: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def write(name: str, content: str | bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def remove(*names: str) -> Edit:
    return lambda folder: [(folder / name).unlink() for name in names]


def refused(folder: Path, **overrides: Any) -> str:
    """The sentence with which `folder` is refused, before or while its weights are loaded."""
    with pytest.raises(CheckpointError) as caught:
        load_model(facts(folder, **overrides))
    text = str(caught.value)
    assert "\n" not in text
    assert "\x1b" not in text
    return text.replace(str(folder), "FOLDER")


# --- what is read ------------------------------------------------------------------------------------------------


def test_what_a_checkpoint_says_of_itself(checkpoint: Path) -> None:
    read = facts(checkpoint)
    assert read.task == "text-classification"
    assert read.architecture == "BertForSequenceClassification"
    assert read.model_type == "bert"
    assert read.labels == LABELS
    assert read.problem_type == "single_label_classification"
    assert read.max_length == 128
    assert read.tokenizer_class == "BertTokenizer"


def test_a_token_classifier(token_checkpoint: Path) -> None:
    assert facts(token_checkpoint).task == "token-classification"
    assert facts(token_checkpoint).labels[0] == "O"


@pytest.mark.parametrize(
    ("overrides", "field", "expected"),
    [
        ({"task": "token-classification"}, "task", "token-classification"),
        ({"labels": ("a", "b", "c", "d")}, "labels", ("a", "b", "c", "d")),
        ({"problem_type": "multi_label_classification"}, "problem_type", "multi_label_classification"),
        ({"problem_type": "regression"}, "problem_type", "regression"),
        ({"max_length": 8}, "max_length", 8),
        ({"max_length": 128}, "max_length", 128),
    ],
)
def test_each_can_be_overridden(checkpoint: Path, overrides: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(facts(checkpoint, **overrides), field) == expected


def test_another_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    other = set_tokenizer(tmp_path, tokenizer_class="BertTokenizer", model_max_length=40)
    shutil.copyfile(checkpoint / "tokenizer.json", other / "tokenizer.json")
    assert facts(checkpoint, tokenizer=other).max_length == 40


@pytest.mark.parametrize(
    ("id2label", "labels"),
    [
        ({"0": "a", "3": "d"}, ("a", "LABEL_1", "LABEL_2", "d")),
        ({"0": 1, "1": 2, "2": 3, "3": 4}, ("1", "2", "3", "4")),
        ({"3": "d", "1": "b", "0": "a", "2": "c"}, ("a", "b", "c", "d")),
    ],
)
def test_labels_by_class_index(copy: Path, id2label: dict[str, Any], labels: tuple[str, ...]) -> None:
    read = facts(configure(copy, id2label=id2label, label2id=None))
    assert read.labels == labels
    assert load_model(read).config.num_labels == 4


def test_labels_where_the_checkpoint_has_none(copy: Path) -> None:
    configure(copy, id2label=None, label2id=None)
    assert load_model(facts(copy, labels=LABELS)).config.num_labels == 4
    assert "has classifier.bias of the shape [4], but by its config.json, with 2 labels, it is [2]" in refused(copy)


def test_a_checkpoint_that_does_not_name_its_architecture(copy: Path) -> None:
    configure(copy, architectures=None)
    assert refused(copy) == (
        f"FOLDER is a model without a head; tritext serves {', '.join(TASKS)}. If it was fine-tuned for one of them, "
        "say so with --task."
    )
    read = facts(copy, task="text-classification")
    assert read.architecture == "bert"
    load_model(read)


@pytest.mark.parametrize("model_max_length", [None, 10**30, 1e30])
def test_a_tokenizer_without_a_limit_gets_the_models(copy: Path, model_max_length: Any) -> None:
    said = {} if model_max_length is None else {"model_max_length": model_max_length}
    assert facts(set_tokenizer(copy, tokenizer_class="BertTokenizer", **said)).max_length == 128


def test_positions_that_begin_behind_the_padding_token(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "roberta", architecture="roberta")
    set_tokenizer(folder, tokenizer_class="RobertaTokenizer")
    assert facts(folder).max_length == 128  # of 130 positions
    assert "--max-length 129 is more than the model's 128 positions" in refused(folder, max_length=129)
    facts(configure(folder, pad_token_id=None))


def test_a_tokenizer_in_native_files_alone(checkpoint: Path, copy: Path) -> None:
    tokens = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
    (copy / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(tokens, key=tokens.__getitem__)))
    (copy / "tokenizer.json").unlink()
    text = "Hello Wörld"
    ids = [inspect(locate(str(folder)), Overrides())[1](text).input_ids for folder in (checkpoint, copy)]
    assert ids[0] == ids[1]


# --- what is refused ---------------------------------------------------------------------------------------------

NEEDS_CODE = "tritext does not run: code from a checkpoint can do anything on this machine. Use "


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (remove("config.json"), "FOLDER has no config.json. A checkpoint is what `save_pretrained` writes: config"),
        (write("config.json", "{"), "FOLDER/config.json is not JSON: Expecting property name"),
        (write("config.json", b"\xff\xfe"), "FOLDER/config.json is not JSON: 'utf-8' codec can't decode"),
        (write("config.json", "[]"), "FOLDER/config.json is not a JSON object."),
        (remove("tokenizer.json"), "FOLDER has no tokenizer: none of tokenizer.json, vocab.txt. Save it there with"),
        (write("tokenizer.json", "{"), "The tokenizer in FOLDER cannot be loaded: "),
        (write("tokenizer_config.json", "{"), "FOLDER/tokenizer_config.json is not JSON"),
        (remove("model.safetensors"), "The weights of FOLDER cannot be loaded: Error no file named model.safetensors"),
        (write("model.safetensors", b""), "The weights of FOLDER cannot be loaded: "),
        (write("model.safetensors", b"\x00" * 100), "The weights of FOLDER cannot be loaded: "),
        (
            write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            "FOLDER/model.safetensors is a Git LFS pointer, not the weights. Run `git lfs pull` there.",
        ),
    ],
)  # fmt: skip
def test_files_that_are_missing_or_damaged(copy: Path, edit: Edit, expected: str) -> None:
    edit(copy)
    assert expected in refused(copy)


def test_truncated_weights(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "The weights of FOLDER cannot be loaded: " in refused(copy)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_type": "gizmo"}, "FOLDER has model_type 'gizmo', which transformers"),
        ({"model_type": ["bert"]}, "FOLDER has model_type ['bert'], which transformers"),
        ({"model_type": None}, "FOLDER has model_type None"),
        ({"architectures": ["BertModel"]}, "FOLDER is a BertModel, which gives vectors, and does not say how"),
        ({"id2label": {"x": "a"}}, "FOLDER/config.json cannot be read: invalid literal"),
        ({"id2label": ["a", "b"]}, "FOLDER/config.json cannot be read: "),
        ({"hidden_size": "abc"}, "FOLDER/config.json cannot be read: Validation error for field 'hidden_size': Type"),
        ({"problem_type": "guess"}, "Problem type 'guess' is not one of single_label_classification, multi_label"),
        ({"num_attention_heads": 5}, "The weights of FOLDER cannot be loaded: The hidden size (32) is not a multiple"),
        (
            {"max_position_embeddings": 64},
            "FOLDER has bert.embeddings.position_embeddings.weight of the shape [128, 32], but by its config.json, "
            "with 4 labels, it is [64, 32]. Correct config.json, or check --labels.",
        ),
        (
            {"vocab_size": 50},
            "embeddings. They do not belong together; check --tokenizer.",
        ),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
            "The weights of FOLDER cannot be loaded: ",
        ),
    ],
)
def test_configurations_that_are_refused(copy: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in refused(configure(copy, **changes))


@pytest.mark.parametrize("model_type", REFUSED)
def test_architectures_that_are_refused_by_name(copy: Path, model_type: str) -> None:
    configure(copy, model_type=model_type)
    assert f"FOLDER is a {model_type}, which is not supported: {REFUSED[model_type]}." in refused(copy)


def test_random_blocks_are_refused_and_full_attention_is_not(tmp_path: Path) -> None:
    """BigBird's block-sparse attention is full up to a length, whatever the rows are in which texts lie."""
    sparse = MORE_ARCHITECTURES["big_bird"].but(attention_type="block_sparse", block_size=8, num_random_blocks=2)
    folder = make(tmp_path / "sparse", sparse, HEADS["single"])
    assert "more than 72 tokens. Build it with --max-length 72, up to which its attention is full" in refused(folder)
    assert load_model(facts(folder, max_length=72)).config.attention_type == "original_full"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"task": "translation"}, "Task 'translation' is not supported. Supported tasks: text-classification, token-"),
        ({"labels": ("a", "b")}, "--labels gives 2 names, the checkpoint has 4 classes."),
        ({"labels": ()}, "--labels gives 0 names, the checkpoint has 4 classes."),
        ({"problem_type": "guess"}, "Problem type 'guess' is not one of"),
        ({"max_length": 7}, "--max-length 7 is too short; it must be at least 8 tokens."),
        ({"max_length": -1}, "--max-length -1 is too short"),
        ({"max_length": 129}, "--max-length 129 is more than the model's 128 positions."),
        ({"tokenizer": Path("/no/where")}, "--tokenizer /no/where is not a directory."),
    ],
)
def test_overrides_that_are_refused(checkpoint: Path, overrides: dict[str, Any], expected: str) -> None:
    assert expected in refused(checkpoint, **overrides)


def test_a_maximum_length_that_no_text_fits_in(copy: Path) -> None:
    set_tokenizer(copy, tokenizer_class="BertTokenizer", model_max_length=3)
    assert "The checkpoint's maximum length of 3 is too short; it must be at least 8 tokens." in refused(copy)


def test_a_tokenizer_of_another_vocabulary(checkpoint: Path, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "other", architecture="bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens([f"new{number}" for number in range(3)])
    tokenizer.save_pretrained(other)
    assert "The tokenizer has ids up to" in refused(checkpoint, tokenizer=other)


def test_a_tokenizer_that_has_no_fast_form(copy: Path) -> None:
    set_tokenizer(copy, tokenizer_class="CanineTokenizer")
    (copy / "tokenizer.json").unlink()
    assert "(CanineTokenizer) has no fast form. Convert it with transformers and give the result" in refused(copy)


# --- code of the checkpoint's own --------------------------------------------------------------------------------

EVIL = "import pathlib\npathlib.Path('{mark}').touch()\nclass Model: ...\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gizmo", "auto_map": {"AutoConfig": "evil.Model"}},
        {"architectures": ["EvilBertForSequenceClassification"], "auto_map": {"AutoModel": "evil.Model"}},
    ],
    ids=["a type", "an architecture"],
)
def test_a_checkpoint_that_needs_its_own_code(copy: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    (copy / "evil.py").write_text(EVIL.format(mark=tmp_path / "ran"))
    assert f"FOLDER needs its own code (auto_map in config.json), which {NEEDS_CODE}" in refused(
        configure(copy, **changes)
    )
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_needs_its_own_code(copy: Path, tmp_path: Path) -> None:
    (copy / "evil.py").write_text(EVIL.format(mark=tmp_path / "ran"))
    set_tokenizer(copy, tokenizer_class="EvilTokenizer", auto_map={"AutoTokenizer": ["evil.Model", None]})
    expected = f"The tokenizer in FOLDER needs its own code (auto_map in tokenizer_config.json), which {NEEDS_CODE}"
    assert expected in refused(copy)
    assert not (tmp_path / "ran").exists()


def test_code_that_is_not_needed_is_not_run(copy: Path, tmp_path: Path) -> None:
    """A known architecture with code beside it: transformers' own class is taken."""
    (copy / "evil.py").write_text(EVIL.format(mark=tmp_path / "ran"))
    for name in ("AutoModelForSequenceClassification", "AutoConfig"):
        model = load_model(facts(configure(copy, auto_map={name: "evil.Model"})))
        assert type(model) is transformers.BertForSequenceClassification
    assert not (tmp_path / "ran").exists()


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_run(copy: Path, tmp_path: Path) -> None:
    (copy / "model.safetensors").unlink()
    mark = tmp_path / "ran"
    expected = (
        "The weights of FOLDER are a pickle that holds more than weights, and to load it could run code of its "
        "maker's. Ask for model.safetensors instead."
    )
    torch.save({"a": Touch(mark)}, copy / "pytorch_model.bin")
    assert refused(copy) == expected
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Touch(mark)}))
    assert refused(copy) == expected
    assert not mark.exists()
    pickle.loads((copy / "pytorch_model.bin").read_bytes())  # noqa: S301 - so that we know that it would have
    assert mark.exists()


# --- the weights -------------------------------------------------------------------------------------------------


def state(folder: Path) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in load_model(facts(folder)).state_dict().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_a_model_is_fp32_and_does_not_train(checkpoint: Path) -> None:
    model = load_model(facts(checkpoint))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(module.training for module in model.modules())


def test_weights_in_a_pickle_of_weights(checkpoint: Path, copy: Path) -> None:
    torch.save(AutoModelForSequenceClassification.from_pretrained(checkpoint).state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    assert same(state(checkpoint), state(copy))


def test_weights_in_shards(checkpoint: Path, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    AutoModelForSequenceClassification.from_pretrained(checkpoint).save_pretrained(copy, max_shard_size="100KB")
    shards = sorted(copy.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert same(state(checkpoint), state(copy))
    shards[0].unlink()
    assert "No such file or directory: FOLDER/model-00001" in refused(copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_are_computed_with_in_full(checkpoint: Path, copy: Path, dtype: torch.dtype) -> None:
    AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=dtype).save_pretrained(copy)
    model = load_model(facts(copy))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    rounded = {name: tensor.astype(np.float32) for name, tensor in _halved(checkpoint, dtype).items()}
    assert same(state(copy), rounded)


def _halved(checkpoint: Path, dtype: torch.dtype) -> dict[str, np.ndarray]:
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=dtype)
    return {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}


def test_a_head_that_was_never_trained(checkpoint: Path, copy: Path) -> None:
    AutoModel.from_pretrained(checkpoint).save_pretrained(copy)
    assert refused(copy, task="text-classification") == (
        "FOLDER has no weights for classifier.bias, classifier.weight: it was not fine-tuned for text-classification, "
        "and random weights would answer. Fine-tune it first, or check --task."
    )


def test_a_pooler_that_the_classifier_looks_at(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    kept = {key: value for key, value in weights.items() if ".pooler." not in key}
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    assert "has no weights for bert.pooler.dense.bias, bert.pooler.dense.weight: it was not fine-tuned" in refused(copy)


def test_more_missing_weights_than_fit_in_a_sentence(copy: Path) -> None:
    expected = "has no weights for bert.encoder.layer.2.attention.output.LayerNorm.bias, "
    text = refused(configure(copy, num_hidden_layers=3))
    assert expected in text
    assert " …: it was not" in text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  one of:\n\n  two\nthree"), "one of: two"),
        (ValueError("ends:"), "ends:"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1000), "x" * 400),
    ],
)
def test_a_librarys_message_in_a_line(error: Exception, expected: str) -> None:
    assert sentence(error) == expected
