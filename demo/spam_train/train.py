"""Train the spam demo's LoRA adapter on all mails and write demo/spam/adapter.safetensors.

    python -m demo.spam_train.train

Cross-validation is in evaluate.py, which calls ``train_adapter`` on each fold's training part.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from demo.spam import ADAPTER, LABELS, MAX_LENGTH, encoder_dir, merge
from demo.spam_train.data import CACHE, load_mails

Arrays = dict[str, npt.NDArray[Any]]

_TRAINED_WHOLE = ("bert.pooler.", "classifier.")


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained; README.md says where the figures come from."""

    seed: int = 0
    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.06  # part of all steps
    weight_decay: float = 0.01
    rank: int = 16
    alpha: float = 32.0
    # Tokens a mail is cut to, drawn anew for each mail and epoch: short and long texts are both
    # learned, and an epoch costs less than one at the longest. The corpus' own short mails are
    # mostly spam; the shortest cut shows that ham can be short too.
    lengths: tuple[int, ...] = (16, 48, 128)
    # The order of float sums, so the result too, depends on it. Two folds at a time on one thread
    # each are faster than one on two, which wait for each other.
    threads: int = 1


@dataclass(frozen=True)
class Example:
    """One mail's token ids, without special tokens and cut to the longest ever used, and its label."""

    ids: list[int]
    label: int


class Lora(nn.Module):
    """A frozen linear map [in] -> [out] plus a trained one of low rank."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.empty(rank, base.in_features))
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [..., in] to [..., out]."""
        low: Tensor = functional.linear(functional.linear(x, self.a), self.b)
        out: Tensor = self.base(x)
        return out + self.scale * low


class Progress:
    """Steps done, loss and time left: one moving line on a terminal, else a line each 20 s."""

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total, self.done = title, total, 0
        self.start = self.last = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def step(self, note: str = "") -> None:
        """Count one step and show the state where it is time to."""
        self.done += 1
        now = time.monotonic()
        if now - self.last < (0.2 if self.terminal else 20) and self.done < self.total:
            return
        self.last = now
        left = (now - self.start) / self.done * (self.total - self.done)
        filled = 24 * self.done // self.total
        bar = "#" * filled + "." * (24 - filled)
        line = f"{self.title} [{bar}] {self.done}/{self.total} {left:4.0f} s left {note}"
        end = "\r" if self.terminal and self.done < self.total else "\n"
        print(line, end=end, file=sys.stderr, flush=True)


def tokenise(texts: Sequence[str]) -> list[list[int]]:
    """Return each text's token ids, neither cut nor with special tokens."""
    tokenizer = _tokenizer()
    return [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def train_adapter(examples: Sequence[Example], recipe: Recipe, title: str = "train") -> Arrays:
    """Train on ``examples``; return the adapter in float16, as demo/spam.py merges it."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    rng = random.Random(recipe.seed)  # noqa: S311
    model = _trainable_model(recipe)
    epochs = [_batches(examples, recipe, rng) for _ in range(recipe.epochs)]
    steps = sum(len(epoch) for epoch in epochs)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _warmup_then_linear(recipe, steps))
    progress = Progress(title, steps)
    model.train()
    smooth = math.log(len(LABELS))
    for batch in (batch for epoch in epochs for batch in epoch):
        loss = _loss(model, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        smooth = 0.95 * smooth + 0.05 * loss.item()
        progress.step(f"loss {smooth:.3f}")
    return _adapter(model)


def predict(
    adapter: Arrays, ids: Sequence[list[int]], max_length: int = MAX_LENGTH, title: str = ""
) -> npt.NDArray[np.float64]:
    """Return P(spam) [len(ids)] of the merged float32 checkpoint, cut to ``max_length`` tokens."""
    model = _merged_model(adapter)
    framed = [_frame(one, max_length) for one in ids]
    order = sorted(range(len(framed)), key=lambda index: len(framed[index]))
    result = np.zeros(len(framed))
    progress = Progress(f"{title} predict", -(-len(order) // 16))
    for start in range(0, len(order), 16):
        chosen = order[start : start + 16]
        with torch.inference_mode():
            logits = model(**_pad([framed[index] for index in chosen])).logits
        result[chosen] = torch.softmax(logits.double(), -1)[:, LABELS.index("spam")].numpy()
        progress.step()
    return result


def save_adapter(adapter: Arrays, path: Path, recipe: Recipe) -> None:
    """Write the adapter with the recipe as its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(sorted(adapter.items())), path, {"recipe": repr(recipe)})


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(encoder_dir() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


# BERT's uncased vocabulary.
_PAD, _CLS, _SEP = 0, 101, 102


def _frame(ids: list[int], max_length: int) -> list[int]:
    return [_CLS, *ids[: max_length - 2], _SEP]


def _pad(rows: Sequence[list[int]]) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` [rows, longest row]."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [_PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


def _batches(examples: Sequence[Example], recipe: Recipe, rng: random.Random) -> list[dict[str, Tensor]]:
    """Return one epoch: mails of like length share a batch, which keeps padding rare.

    Mails are sorted within groups of 50 batches only, so that batches differ between epochs.
    """
    rows = [(_frame(e.ids, rng.choice(recipe.lengths)), e.label) for e in examples]
    rng.shuffle(rows)
    size, group = recipe.batch_size, 50 * recipe.batch_size
    batches = []
    for start in range(0, len(rows), group):
        part = sorted(rows[start : start + group], key=lambda row: len(row[0]))
        batches += [part[i : i + size] for i in range(0, len(part), size)]
    rng.shuffle(batches)
    return [
        {**_pad([ids for ids, _ in batch]), "labels": torch.tensor([label for _, label in batch])} for batch in batches
    ]


def _warmup_then_linear(recipe: Recipe, steps: int) -> Callable[[int], float]:
    warm = max(1, round(recipe.warmup * steps))
    return lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def _loss(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    # bfloat16 halves the time of a step on a CPU with avx512_bf16 (README.md has the figures).
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return functional.cross_entropy(logits.float(), batch["labels"])


def _trainable_model(recipe: Recipe) -> BertForSequenceClassification:
    """Return the encoder, frozen, with LoRA on its linear maps and a trainable pooler and head."""
    model: BertForSequenceClassification = BertForSequenceClassification.from_pretrained(
        encoder_dir(),
        num_labels=len(LABELS),
        # Eager attention: the fused one's backward pass in bfloat16 is slower on a CPU.
        attn_implementation="eager",
        # LoRA regularises; drawing dropout masks costs a tenth of the time on a CPU.
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout=0.1,
    )
    model.bert.requires_grad_(False)
    for parent in list(model.bert.encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and not isinstance(parent, Lora):
                setattr(parent, name, Lora(child, recipe.rank, recipe.alpha))
    for name, parameter in model.named_parameters():
        if name.startswith(_TRAINED_WHOLE):
            parameter.requires_grad_(True)
    return model


def _adapter(model: nn.Module) -> Arrays:
    """Return the trained tensors by the names that ``demo.spam.merge`` reads."""
    adapter: Arrays = {}
    for name, module in model.named_modules():
        if isinstance(module, Lora):
            adapter[name + ".lora_a"] = _half(module.a)
            adapter[name + ".lora_b"] = _half(module.scale * module.b)
    for name, parameter in model.named_parameters():
        if name.startswith(_TRAINED_WHOLE):
            adapter[name] = _half(parameter)
    return adapter


def _half(tensor: Tensor) -> npt.NDArray[np.float16]:
    array: npt.NDArray[np.float16] = tensor.detach().to(torch.float16).numpy()
    return array


def _merged_model(adapter: Arrays) -> BertForSequenceClassification:
    config = BertConfig.from_pretrained(encoder_dir(), num_labels=len(LABELS))
    model = BertForSequenceClassification(config)
    tensors = merge(load_file(encoder_dir() / "model.safetensors"), adapter)
    model.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
    model.train(mode=False)
    return model


def examples_of(mails: Sequence[Any]) -> Iterator[Example]:
    """Yield the examples of ``data.Mail`` records, in their order."""
    for ids, mail in zip(tokenise([m.text for m in mails]), mails, strict=True):
        yield Example(ids[:MAX_LENGTH], mail.label)


def main() -> None:
    """Train on the whole corpus and write the adapter."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--out", type=Path, default=ADAPTER)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    arguments = parser.parse_args()
    recipe = Recipe(seed=arguments.seed)
    adapter = train_adapter(list(examples_of(load_mails(arguments.cache))), recipe)
    save_adapter(adapter, arguments.out, recipe)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
