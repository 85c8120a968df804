"""Small checkpoints of every architecture, made on the spot: random weights, tokenizers trained on real text.

`make` writes one to a folder, just as ``save_pretrained`` of a fine-tuned model would; the same seed gives the
same files. Weights are drawn wide (see `SPREAD`): with the usual 0.02 a model hardly looks at its mask, its
positions or its token types, and a test could not tell whether they arrive.
"""

import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from tritext.build.texts import parity_texts

SPREAD = 0.3  # the standard deviation of every parameter
MAX_LENGTH = 128  # tokens, special tokens included

LABELS = ("négatif", "中立", "положительный", "محايد")
TOPICS = ("спорт", "news", "文化", "ψυχαγωγία", "food & drink")
BIO = ("O", "B-PER", "I-PER", "B-ORT", "I-ORT", "B-国", "I-国")
# What real checkpoints have too: no prefix, another prefix, nothing behind the prefix, two hyphens, no "O".
ODD_TAGS = ("PER", "I-PER", "B-PER", "X-PER", "B-", "LOC-CITY", "B-LOC-CITY", "NOUN")

SEQUENCE = "SequenceClassification"
TOKENS = "TokenClassification"
MASKED = "MaskedLM"
SPANS = "QuestionAnswering"
NONE = ""


@dataclass(frozen=True)
class Head:
    """What a checkpoint was fine-tuned for."""

    kind: str
    labels: tuple[str, ...]
    problem_type: str | None = None


HEADS: Mapping[str, Head] = {
    "single": Head(SEQUENCE, LABELS, "single_label_classification"),
    "untyped": Head(SEQUENCE, LABELS),
    "multi": Head(SEQUENCE, TOPICS, "multi_label_classification"),
    "regression": Head(SEQUENCE, ("score",), "regression"),
    "regressions": Head(SEQUENCE, ("valence", "arousal"), "regression"),
    "one": Head(SEQUENCE, ("relevant",)),
    "tokens": Head(TOKENS, BIO),
    "odd_tags": Head(TOKENS, ODD_TAGS),
    "masked": Head(MASKED, ()),
    "spans": Head(SPANS, ()),
    "none": Head(NONE, ()),
}


# --- vocabularies, each as the native files of its tokenizer class -----------------------------------------------


@cache
def corpus() -> tuple[str, ...]:
    """Real text in many scripts. Some languages are left out, so that there are unknown tokens too."""
    unseen = ("ა", "የ", "บ", "வ")
    texts = [text for text in parity_texts(pairs=False) if isinstance(text, str) and text.strip()]
    return tuple(text[:600] for text in texts if not any(letter in text for letter in unseen))


@cache
def _wordpieces(special: tuple[str, ...]) -> bytes:
    """The most frequent letters, and the most frequent beginnings and continuations of words.

    Not by the trainer of `tokenizers`, which gives another vocabulary at each run.
    """
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    words = [word for text in corpus() for form in (text, text.lower()) for word, _ in split(form)]
    letters = Counter(letter for word in words for letter in word)
    pieces = Counter(
        f"{'##' if start else ''}{word[start:end]}"
        for word in words
        for start in range(len(word))
        for end in range(start + 2, len(word) + 1)
    )
    alphabet = [letter for letter, _ in _ranked(letters)[:400]]
    longer = [piece for piece, _ in _ranked(pieces)[:700] if set(piece.removeprefix("##")) <= set(alphabet)]
    tokens = dict.fromkeys([*special, *alphabet, *(f"##{letter}" for letter in alphabet), *longer])
    return "".join(f"{token}\n" for token in tokens).encode()


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def wordpieces(*special: str) -> Mapping[str, bytes]:
    """BERT's vocab.txt."""
    return {"vocab.txt": _wordpieces(special)}


def _trained_byte_pairs(special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


@cache
def modern_byte_pairs() -> Mapping[str, bytes]:
    """ModernBERT's tokenizer.json: bytes like RoBERTa's, composed letters, BERT's special tokens."""
    tokenizer = _trained_byte_pairs(_BERT_TOKENS)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    return {"tokenizer.json": tokenizer.to_str().encode()}


@cache
def byte_pairs() -> Mapping[str, bytes]:
    """RoBERTa's vocab.json and merges.txt."""
    model = json.loads(_trained_byte_pairs(("<s>", "<pad>", "</s>", "<unk>", "<mask>")).to_str())["model"]
    merges = "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"])
    return {"vocab.json": json.dumps(model["vocab"]).encode(), "merges.txt": merges.encode()}


@cache
def _sentencepieces(**options: Any) -> bytes:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=written, model_type="unigram", vocab_size=1000,
        character_coverage=0.99, hard_vocab_limit=False, num_threads=1, minloglevel=3, **options,
    )  # fmt: skip
    return written.getvalue()


def sentencepieces(file: str, **options: Any) -> Mapping[str, bytes]:
    """A Unigram model in SentencePiece's own format, with its rules of normalisation inside."""
    return {file: _sentencepieces(**options)}


# --- architectures -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """A model type with a tiny configuration, and the tokenizer that goes with it."""

    model_type: str
    config: Mapping[str, Any]
    tokenizer_class: str
    vocabulary: Callable[[], Mapping[str, bytes]]
    tokenizer_config: Mapping[str, Any] = field(default_factory=dict)

    def but(self, *, tokenizer: Mapping[str, Any] | None = None, **config: Any) -> "Architecture":
        """The same with an option or two set otherwise."""
        return replace(
            self,
            config={**self.config, **config},
            tokenizer_config={**self.tokenizer_config, **(tokenizer or {})},
        )


_SIZES: Mapping[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": MAX_LENGTH,
    "type_vocab_size": 2,
    "initializer_range": SPREAD,
}
# RoBERTa's positions begin behind the padding token's id, 1.
_BEHIND_PADDING: Mapping[str, Any] = {"max_position_embeddings": MAX_LENGTH + 2, "type_vocab_size": 1}
_BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

ARCHITECTURES: Mapping[str, Architecture] = {
    "bert": Architecture("bert", _SIZES, "BertTokenizer", lambda: wordpieces(*_BERT_TOKENS)),
    "distilbert": Architecture(
        "distilbert",
        {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": MAX_LENGTH,
         "initializer_range": SPREAD},
        "DistilBertTokenizer",
        lambda: wordpieces(*_BERT_TOKENS),
    ),
    "roberta": Architecture("roberta", {**_SIZES, **_BEHIND_PADDING}, "RobertaTokenizer", byte_pairs),
    "xlm-roberta": Architecture(
        "xlm-roberta",
        {**_SIZES, **_BEHIND_PADDING},
        "XLMRobertaTokenizer",
        lambda: sentencepieces("sentencepiece.bpe.model"),
    ),
    "electra": Architecture(
        "electra", {**_SIZES, "embedding_size": 24}, "ElectraTokenizer", lambda: wordpieces(*_BERT_TOKENS)
    ),
    "albert": Architecture(
        "albert",
        {**_SIZES, "embedding_size": 24},
        "AlbertTokenizer",
        lambda: sentencepieces(
            "spiece.model", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP],[MASK]"
        ),
    ),
    "mpnet": Architecture(
        "mpnet",
        {**_SIZES, "max_position_embeddings": MAX_LENGTH + 2},
        "MPNetTokenizer",
        lambda: wordpieces("<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"),
    ),
    # As DeBERTa-v3 is: no absolute positions, no token types; relative positions beyond 16 share logarithmic buckets.
    "deberta-v2": Architecture(
        "deberta-v2",
        {**_SIZES, "type_vocab_size": 0, "position_biased_input": False, "relative_attention": True,
         "position_buckets": 32, "max_relative_positions": -1, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
         "norm_rel_ebd": "layer_norm", "pooler_hidden_size": 32},
        "DebertaV2Tokenizer",
        lambda: sentencepieces(
            "spm.model", pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]",
            eos_piece="[SEP]", unk_piece="[UNK]",
        ),
    ),
    "camembert": Architecture(
        "camembert",
        {**_SIZES, **_BEHIND_PADDING},
        "CamembertTokenizer",
        lambda: sentencepieces("sentencepiece.bpe.model"),
    ),
    # Every second layer sees all of a text, the others 8 tokens to each side.
    "modernbert": Architecture(
        "modernbert",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
         "max_position_embeddings": MAX_LENGTH, "global_attn_every_n_layers": 2, "local_attention": 16},
        "PreTrainedTokenizerFast",
        modern_byte_pairs,
        {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]",
         "unk_token": "[UNK]", "model_input_names": ["input_ids", "attention_mask"]},
    ),
}  # fmt: skip

# Served too, and near enough to one of the above to be tested less.
MORE_ARCHITECTURES: Mapping[str, Architecture] = {
    "big_bird": Architecture(
        "big_bird",
        {**_SIZES, "attention_type": "original_full"},
        "BigBirdTokenizer",
        lambda: sentencepieces(
            "spiece.model", pad_id=0, bos_id=1, eos_id=2, unk_id=3, control_symbols="[CLS],[SEP],[MASK]"
        ),
    ),
    "deberta": Architecture(
        "deberta",
        {**_SIZES, "num_hidden_layers": 1, "type_vocab_size": 0, "position_biased_input": False,
         "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pooler_hidden_size": 32},
        "DebertaTokenizer",
        byte_pairs,
        {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>"},
    ),
    "mobilebert": Architecture(
        "mobilebert",
        {**_SIZES, "embedding_size": 24, "true_hidden_size": 16, "intra_bottleneck_size": 16,
         "num_feedforward_networks": 2},
        "MobileBertTokenizer",
        lambda: wordpieces(*_BERT_TOKENS),
    ),
    "nomic_bert": Architecture("nomic_bert", _SIZES, "BertTokenizer", lambda: wordpieces(*_BERT_TOKENS)),
}  # fmt: skip


# --- checkpoints -------------------------------------------------------------------------------------------------


def make(folder: Path, architecture: Architecture, head: Head, *, seed: int = 0, slow: bool = False) -> Path:
    """Write a checkpoint to `folder` and return it; `slow`: with the tokenizer's native files only."""
    folder.mkdir(parents=True)
    tokenizer = _write_tokenizer(folder, architecture, slow=slow)
    config = AutoConfig.for_model(
        architecture.model_type,
        **architecture.config,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
        **_labels(head),
    )
    auto_class: Any = getattr(transformers, f"AutoModelFor{head.kind}" if head.kind else "AutoModel")
    model: PreTrainedModel = auto_class.from_config(config)
    randomise(model.eval(), seed)
    if head.labels:
        balance(model, tokenizer)
    model.save_pretrained(folder)
    return folder


def _labels(head: Head) -> dict[str, Any]:
    if not head.labels:
        return {}
    return {
        "id2label": dict(enumerate(head.labels)),
        "label2id": {label: index for index, label in enumerate(head.labels)},
        "problem_type": head.problem_type,
    }


def _write_tokenizer(folder: Path, architecture: Architecture, *, slow: bool) -> PreTrainedTokenizerBase:
    native = architecture.vocabulary()
    for name, content in native.items():
        (folder / name).write_bytes(content)
    options = {"model_max_length": MAX_LENGTH, **architecture.tokenizer_config}
    config = {"tokenizer_class": architecture.tokenizer_class, **options}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer_class: Any = getattr(transformers, architecture.tokenizer_class)
    tokenizer: PreTrainedTokenizerBase = tokenizer_class.from_pretrained(folder)
    if not slow:
        for name in native:
            (folder / name).unlink()
        tokenizer.save_pretrained(folder)
    return tokenizer


@torch.no_grad()
def randomise(model: PreTrainedModel, seed: int) -> None:
    """Draw every parameter anew: biases, position and token type embeddings and the padding token's row too.

    Scales of normalisations are drawn around 1.
    """
    generator = torch.Generator().manual_seed(seed)
    scales = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.LayerNorm)}
    for _, parameter in sorted(model.named_parameters()):
        parameter.normal_(1.0 if id(parameter) in scales else 0.0, SPREAD, generator=generator)


@torch.no_grad()
def balance(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Centre and stretch the last layer's logits over real texts, so that each class is the best now and then.

    Unbalanced, one or two classes would win nearly everywhere and hide what happens to the others.
    """
    size = model.config.num_labels
    batches = [tokenizer(text, truncation=True, return_tensors="pt") for text in corpus()]
    logits = torch.cat([model(**batch).logits.reshape(-1, size) for batch in batches])
    (last,) = (m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == size)
    stretch = 2.0 / logits.std(dim=0)
    last.weight.mul_(stretch[:, None])
    last.bias.copy_((last.bias - logits.mean(dim=0)) * stretch)
