"""What `transformers.pipeline` answers."""

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer

# A text, or a pair of texts.
Item = str | tuple[str, str]
# One answer, as the pipeline gives it: label and score; for an entity its place too.
Answer = Mapping[str, Any]


class Reference:
    """A checkpoint in `transformers.pipeline`, in fp32, one text at a time and so without padding.

    The model runs once for each text and side; the pipeline's own `postprocess` runs for every request.
    """

    def __init__(self, checkpoint: Path, *, is_tokens: bool) -> None:
        self.is_tokens = is_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        task = "token-classification" if is_tokens else "text-classification"
        self.pipe: Any = transformers.pipeline(
            task, model=str(checkpoint), tokenizer=self.tokenizer, device="cpu", dtype=torch.float32
        )
        self.function = "none" if self.pipe.model.config.problem_type == "regression" else "default"
        self.labels = [self.pipe.model.config.id2label[i] for i in range(self.pipe.model.config.num_labels)]
        self._lengths: dict[Item, int] = {}
        self._outputs: dict[tuple[Item, str], Any] = {}
        self._answers: dict[tuple[Item, str, str], list[Answer]] = {}

    def encode(self, item: Item, side: str) -> dict[str, list[int]]:
        """Ids (and type ids) as transformers' tokenizer gives them, cut at `side`."""
        self.tokenizer.truncation_side = side
        batch = ([item[0]], [item[1]]) if isinstance(item, tuple) else ([item],)
        encoded = self.tokenizer(*batch, truncation=True, max_length=self.tokenizer.model_max_length)
        return {name: rows[0] for name, rows in encoded.items()}

    def length(self, item: Item) -> int:
        """How many tokens `item` has in full."""
        if item not in self._lengths:
            batch = ([item[0]], [item[1]]) if isinstance(item, tuple) else ([item],)
            self._lengths[item] = len(self.tokenizer(*batch, verbose=False)["input_ids"][0])
        return self._lengths[item]

    def outputs(self, item: Item, side: str = "right") -> Any:
        """What the model gives for `item`, ready for the pipeline's `postprocess`."""
        if self.length(item) <= self.tokenizer.model_max_length:
            side = "right"  # nothing is cut
        if (item, side) not in self._outputs:
            self.tokenizer.truncation_side = side
            self._outputs[item, side] = self._forward(item)
        return self._outputs[item, side]

    def _forward(self, item: Item) -> Any:
        if self.is_tokens:
            return [self.pipe.forward(part) for part in self.pipe.preprocess(item, is_split_into_words=False)]
        options = {"truncation": True, "max_length": self.tokenizer.model_max_length}
        if isinstance(item, tuple) and not item[1]:  # the pipeline takes an empty second text for none
            inputs = self.tokenizer([item[0]], [item[1]], return_tensors="pt", **options)
        else:
            sent = {"text": item[0], "text_pair": item[1]} if isinstance(item, tuple) else item
            inputs = self.pipe.preprocess(sent, **options)
        return self.pipe.forward(inputs)

    def answers(self, item: Item, *, side: str = "right", **parameters: Any) -> list[Answer]:
        """The pipeline's answers for `item`. `threshold` is not the pipeline's own: applied to what it gives."""
        key = (item, side, repr(parameters))
        if key not in self._answers:
            self._answers[key] = self._postprocess(self.outputs(item, side), **parameters)
        return self._answers[key]

    def _postprocess(self, outputs: Any, *, threshold: float | None = None, **parameters: Any) -> list[Answer]:
        options = self.pipe._sanitize_parameters(**parameters)[2]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Tokenizer does not support real words", UserWarning)
            found = self.pipe.postprocess(_copied(outputs), **options)
        return [answer for answer in found if threshold is None or answer["score"] >= threshold]

    def is_near_tie(self, item: Item, tolerance: float, *, side: str = "right", **parameters: Any) -> bool:
        """Whether logits that differ by no more than `tolerance` already give other labels or places.

        Tried with 16 random changes of the reference's own logits; one in four would turn a tie of two.
        """
        outputs = self.outputs(item, side)
        expected = shape(self.answers(item, side=side, **parameters))
        random = np.random.default_rng(0)
        return any(
            shape(self._postprocess(_shaken(outputs, random, tolerance), **parameters)) != expected for _ in range(16)
        )


def _copied(outputs: Any) -> Any:
    return [copy(part) for part in outputs] if isinstance(outputs, list) else copy(outputs)


def _shaken(outputs: Any, random: np.random.Generator, tolerance: float) -> Any:
    shaken = _copied(outputs)
    for part in shaken if isinstance(shaken, list) else [shaken]:
        change = random.choice([-tolerance, tolerance], size=part["logits"].shape)
        part["logits"] = part["logits"] + torch.from_numpy(change).to(torch.float32)
    return shaken


def shape(answers: Sequence[Answer]) -> list[tuple[Any, ...]]:
    """Everything of the answers but their scores."""
    return [(_label(answer), answer.get("start"), answer.get("end")) for answer in answers]


def _label(answer: Answer) -> str:
    return str(answer.get("label", answer.get("entity", answer.get("entity_group"))))
