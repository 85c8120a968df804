"""The factory makes checkpoints that mean something; checkpoints that are unusual and valid are built rightly."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from asking import InProcess
from comparing import compare_texts, compare_tokens
from hard_texts import PAIRS, SINGLE
from reference import Reference
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.normalizers import NFKD, Lowercase, Replace, Sequence, StripAccents
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer
from zoo import Zoo

from checkpoints import ARCHITECTURES, HEADS, SEQUENCE, SPREAD, Head, make
from tritext.build import BuildOptions, build
from tritext.build.source import locate
from tritext.errors import CheckpointError
from tritext.pipeline import Pipeline

A, H = ARCHITECTURES, HEADS
TEXTS = ("Straße & Öl — the ﬁne café ☕️ สวัสดีชาวโลก", *SINGLE[:4], *SINGLE[21:24], *SINGLE[28:44], SINGLE[26])


# --- the factory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", A)
def test_the_same_seed_gives_the_same_files(name: str, tmp_path: Path) -> None:
    folders = [make(tmp_path / it, A[name], H["single"]) for it in ("a", "b")]
    digests = [{path.name: sha256(path.read_bytes()).hexdigest() for path in it.iterdir()} for it in folders]
    assert digests[0] == digests[1]
    other = make(tmp_path / "c", A[name], H["single"], seed=1) / "model.safetensors"
    assert sha256(other.read_bytes()).hexdigest() != digests[0]["model.safetensors"]


@pytest.mark.parametrize("name", A)
def test_every_parameter_is_random_and_wide(name: str, zoo: Zoo) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(zoo.checkpoint(f"{name}.single"))
    for key, parameter in model.named_parameters():
        if parameter.numel() > 8:
            assert parameter.std() > SPREAD / 2, key
        assert parameter.abs().min() > 0, key  # no row or bias was left at zero


@pytest.mark.parametrize("name", A)
def test_padding_is_seen_without_a_mask(name: str, reference: Callable[[str], Reference]) -> None:
    it = reference(f"{name}.single")
    batch = it.tokenizer([SINGLE[0], "OK"], padding=True, return_tensors="pt")
    with torch.inference_mode():
        right = it.pipe.model(**batch).logits[1]
        wrong = it.pipe.model(**{**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}).logits[1]
    assert (right - wrong).abs().max() > 0.1


@pytest.mark.parametrize("name", A)
def test_the_tokenizer_is_the_architectures_own(name: str, reference: Callable[[str], Reference]) -> None:
    tokenizer, config = reference(f"{name}.single").tokenizer, reference(f"{name}.single").pipe.model.config
    assert tokenizer.is_fast
    assert (tokenizer.pad_token_id, len(tokenizer)) == (config.pad_token_id, config.vocab_size)
    ids = tokenizer("one", "two")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert ids.count(tokenizer.sep_token_id) == (3 if name in {"roberta", "xlm-roberta", "camembert", "mpnet"} else 2)
    unknown = tokenizer("ሰላም ჯჯჯ")["input_ids"]
    assert (tokenizer.unk_token_id in unknown) == (name not in {"roberta", "modernbert"})  # bytes know every letter


@pytest.mark.parametrize(
    ("slow", "fast", "files"),
    [
        ("bert.slow.single", "bert.single", {"vocab.txt"}),
        ("roberta.slow.tokens", "roberta.tokens", {"vocab.json", "merges.txt"}),
        ("xlm-roberta.slow.tokens", "xlm-roberta.tokens", {"sentencepiece.bpe.model"}),
        ("albert.slow.single", "albert.single", {"spiece.model"}),
        ("deberta-v2.slow.single", "deberta-v2.single", {"spm.model"}),
        ("camembert.slow.tokens", "camembert.tokens", {"sentencepiece.bpe.model"}),
    ],
)
def test_a_slow_tokenizer_is_converted(slow: str, fast: str, files: set[str], zoo: Zoo) -> None:
    there = {path.name for path in zoo.checkpoint(slow).iterdir()}
    assert there == {"config.json", "model.safetensors", "tokenizer_config.json"} | files
    saved = [json.loads((zoo.model(name).step("tokenizer") / "tokenizer.json").read_text()) for name in (slow, fast)]
    assert saved[0] == saved[1]


# --- unusual checkpoints ------------------------------------------------------------------------------------------


def with_tokenizer_config(folder: Path, **changes: object) -> Path:
    path = folder / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return folder


def in_half_precision(folder: Path) -> Path:
    AutoModelForSequenceClassification.from_pretrained(make(folder, A["bert"], H["single"])).half().save_pretrained(
        folder
    )
    return folder


def with_words_added(folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(make(folder, A["roberta"], H["tokens"]))
    tokenizer.add_tokens(["10:30", "naïve"])
    tokenizer.add_special_tokens({"additional_special_tokens": ["❤️"]})
    model = AutoModelForTokenClassification.from_pretrained(folder)
    torch.manual_seed(0)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def with_a_pooler(folder: Path) -> Path:
    """As old checkpoints have one, though no token looks at it."""
    weights = load_file(make(folder, A["bert"], H["tokens"]) / "model.safetensors")
    assert not any(".pooler." in key for key in weights)
    pooler = {"bert.pooler.dense.weight": torch.ones(32, 32), "bert.pooler.dense.bias": torch.ones(32)}
    save_file({**weights, **pooler}, folder / "model.safetensors", {"format": "pt"})
    return folder


def without_label_names(folder: Path) -> Path:
    path = make(folder, A["bert"], Head(SEQUENCE, ("yes", "no"))) / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: config[key] for key in config if key not in {"id2label", "label2id"}}))
    return folder


def with_a_normaliser_of_its_own(folder: Path) -> Path:
    """One code point becomes several and several become one, letters lose marks and words appear."""
    path = make(folder, A["bert"], H["tokens"]) / "tokenizer.json"
    steps = [NFKD(), StripAccents(), Lowercase(), Replace("ß", "ss"), Replace("&", " and "), Replace("the ", "")]
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = Sequence(steps)
    tokenizer.save(str(path))
    return with_tokenizer_config(folder, tokenizer_class="PreTrainedTokenizerFast")


UNUSUAL: dict[str, Callable[[Path], Path]] = {
    "weights in half precision": in_half_precision,
    "words added to the vocabulary": with_words_added,
    "a pooler that nothing looks at": with_a_pooler,
    "no label names": without_label_names,
    "a normaliser of its own": with_a_normaliser_of_its_own,
    # transformers then takes BERT's, which gives token types that DistilBERT has no input for
    "no tokenizer class": lambda folder: with_tokenizer_config(
        make(folder, A["distilbert"], H["single"]), tokenizer_class=None
    ),
    "a generic tokenizer class": lambda folder: with_tokenizer_config(
        make(folder, A["xlm-roberta"], H["tokens"]), tokenizer_class="PreTrainedTokenizerFast"
    ),
    "no maximum length": lambda folder: with_tokenizer_config(
        make(folder, A["roberta"], H["single"]), model_max_length=int(1e30)
    ),
    "padding on the left": lambda folder: make(folder, A["bert"].but(tokenizer={"padding_side": "left"}), H["single"]),
    "sines for positions": lambda folder: make(folder, A["distilbert"].but(sinusoidal_pos_embds=True), H["tokens"]),
    "groups of layers": lambda folder: make(
        folder, A["albert"].but(num_hidden_groups=2, inner_group_num=2), H["tokens"]
    ),
    "relative positions without buckets": lambda folder: make(
        folder, A["deberta-v2"].but(position_buckets=-1, norm_rel_ebd="none", pos_att_type=["c2p"]), H["tokens"]
    ),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_an_unusual_checkpoint_answers_as_the_pipeline_does(what: str, tmp_path: Path) -> None:
    checkpoint = UNUSUAL[what](tmp_path / "checkpoint")
    is_tokens = "Token" in json.loads((checkpoint / "config.json").read_text())["architectures"][0]
    model = build(
        locate(str(checkpoint)), BuildOptions("it", tmp_path / "repository", engine="openvino", precision="fp32")
    ).model
    assert model.manifest().max_length == 128
    reference, ask = Reference(checkpoint, is_tokens=is_tokens), InProcess(Pipeline.load(model))
    reference.tokenizer.model_max_length = 128
    if is_tokens:
        compare_tokens(reference, ask, TEXTS, [{"aggregation_strategy": "average", "ignore_labels": "[]"}]).check()
    else:
        compare_texts(reference, ask, TEXTS, [{"top_k": "all"}]).check()


def test_a_tokenizer_that_gives_more_than_the_model_has_is_refused(tmp_path: Path) -> None:
    """The second texts of pairs have token type 2, and this model has 0 and 1."""
    checkpoint = make(tmp_path / "checkpoint", A["bert"], H["single"])
    path = checkpoint / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:2 [SEP]:2",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    tokenizer.save(str(path))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    with_tokenizer_config(checkpoint, tokenizer_class="PreTrainedTokenizerFast", model_input_names=inputs)
    with pytest.raises(CheckpointError, match="no embedding for an id or a token type"):
        build(locate(str(checkpoint)), BuildOptions("it", tmp_path / "repository", engine="openvino", precision="fp32"))


def test_a_model_with_one_token_type_takes_both_texts_of_a_pair_for_that(tmp_path: Path) -> None:
    """Its tokenizer numbers them all the same; transformers answers where it is told not to."""
    checkpoint = make(tmp_path / "checkpoint", A["bert"].but(type_vocab_size=1), H["single"])
    model = build(
        locate(str(checkpoint)), BuildOptions("it", tmp_path / "repository", engine="openvino", precision="fp32")
    ).model
    reference = Reference(checkpoint, is_tokens=False)
    assert max(reference.encode(PAIRS[0], "right")["token_type_ids"]) == 1
    reference.tokenizer.model_input_names = ["input_ids", "attention_mask"]
    assert "token_type_ids" not in reference.encode(PAIRS[0], "right")
    for items in (PAIRS, TEXTS):
        compare_texts(reference, InProcess(Pipeline.load(model)), items, [{"top_k": "all"}]).check()
