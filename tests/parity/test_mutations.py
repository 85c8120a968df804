"""The comparison fails when one thing in the pipeline is broken, and only where that thing can matter.

Each mutation breaks one step in one way. It names the architectures that must not notice, with the reason; on
these the comparison must still pass, which proves the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from asking import Ask, InProcess
from comparing import Comparison, compare_texts, compare_tokens
from hard_texts import PAIRS, SINGLE
from numpy.typing import NDArray
from reference import Item, Reference
from zoo import Zoo

from checkpoints import ARCHITECTURES
from tritext.engines.turns import TURNS
from tritext.pipeline import Pipeline
from tritext.tasks import text_classification, token_classification
from tritext.tasks.base import sigmoid, softmax
from tritext.tasks.token_classification import Tags
from tritext.text import tokenizer as text_tokenizer
from tritext.text.tokenizer import Encoded, TextTokenizer

# Texts of mixed lengths and scripts; the last one is cut.
TEXTS = (*SINGLE[:2], *SINGLE[21:24], *SINGLE[28:34], SINGLE[26])
# Position ids are 0, 1, 2, …
ABSOLUTE = ("bert", "distilbert", "electra", "albert", "modernbert", "deberta-v2.convolved")
BY_IDS = ("roberta", "xlm-roberta", "camembert", "mpnet")  # position ids count the tokens that are not padding
RELATIVE = ("deberta-v2",)
EVERY = (*ABSOLUTE, *BY_IDS, *RELATIVE)
PACKED = tuple(name for name in EVERY if name != "deberta-v2.convolved")  # that one has a row for each text
TYPED = ("bert", "electra", "deberta-v2.convolved")  # token types in the tokenizer and in the model

Arrays = dict[str, NDArray[np.int32]]
Logits = NDArray[np.float32]
Break = Callable[[pytest.MonkeyPatch, Pipeline], None]


class ChangedRunner:
    """An engine with something done to what goes in, and to what comes out."""

    uses_cores = False

    def __init__(self, runner: Any, before: Callable[[Arrays], Arrays], after: Callable[[Logits, Arrays], Logits]):
        self._runner, self._before, self._after = runner, before, after

    def run(self, arrays: Arrays) -> Logits:
        logits: Logits = self._runner.run(self._before(dict(arrays)))
        return self._after(logits, arrays)


def around_engine(
    before: Callable[[Arrays], Arrays] = lambda arrays: arrays,
    after: Callable[[Logits, Arrays], Logits] = lambda logits, _: logits,
) -> Break:
    def apply(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
        encoder: Any = pipeline._stages[1]
        monkeypatch.setattr(encoder, "_runner", ChangedRunner(encoder._runner, before, after))

    return apply


def around_tokenizer(
    before: Callable[[Sequence[Item]], list[Item]] = list, after: Callable[[Encoded], Encoded] = lambda encoded: encoded
) -> Break:
    def apply(monkeypatch: pytest.MonkeyPatch, pipeline: Pipeline) -> None:
        original = TextTokenizer.encode
        monkeypatch.setattr(
            TextTokenizer,
            "encode",
            lambda self, texts, *rest: [after(row) for row in original(self, before(texts), *rest)],
        )

    return apply


def replacing(place: Any, name: str, value: Any) -> Break:
    return lambda monkeypatch, _: monkeypatch.setattr(place, name, value)


def segments_of(arrays: Arrays) -> NDArray[np.int32]:
    """The number of the text that each position [R, L] belongs to, 0 for padding, of a packed or a padded call."""
    return arrays["segment_ids" if "segment_ids" in arrays else "attention_mask"]


def per_row(change: Callable[[NDArray[Any], int], NDArray[Any]]) -> Callable[[Arrays], Arrays]:
    """Change each row [L] of each input; `change` also gets its number of real tokens."""

    def apply(arrays: Arrays) -> Arrays:
        sizes = (segments_of(arrays) > 0).sum(axis=1)
        return {
            name: np.stack([change(row, size) for row, size in zip(array, sizes, strict=True)])
            for name, array in arrays.items()
            if array.ndim == 2
        }

    return apply


def per_token_logits(change: Callable[[NDArray[Any], int], NDArray[Any]]) -> Callable[[Logits, Arrays], Logits]:
    """Change the logits [L, C] of each row where there are logits for each token."""

    def apply(logits: Logits, arrays: Arrays) -> Logits:
        sizes = (segments_of(arrays) > 0).sum(axis=1)
        return np.stack([change(row, size) for row, size in zip(logits, sizes, strict=True)])

    return lambda logits, arrays: apply(logits, arrays) if logits.ndim == 3 else logits


def reversed_in_texts(array: NDArray[Any], arrays: Arrays) -> NDArray[Any]:
    """`array` [R, L, …] with the tokens of each text in reverse order."""
    changed = array.copy()
    for row, segments in enumerate(segments_of(arrays)):
        for segment in range(1, segments.max() + 1):
            (places,) = np.nonzero(segments == segment)
            changed[row, places] = array[row, places[::-1]]
    return changed


def reverse_tokens(arrays: Arrays) -> Arrays:
    names = [name for name in ("input_ids", "token_type_ids") if name in arrays]
    return {**arrays, **{name: reversed_in_texts(arrays[name], arrays) for name in names}}


def to_the_right(row: NDArray[Any], size: int) -> NDArray[Any]:
    return np.roll(row, len(row) - size, axis=0)


def to_the_left(row: NDArray[Any], size: int) -> NDArray[Any]:
    return np.roll(row, size - len(row), axis=0)


def padded_left(pad_id: int | None) -> Callable[[Arrays], Arrays]:
    def apply(arrays: Arrays) -> Arrays:
        if pad_id is not None:
            ids, mask = arrays["input_ids"], segments_of(arrays)
            arrays["input_ids"] = np.where(mask > 0, ids, np.int32(pad_id))
        return per_row(to_the_right)(arrays)

    return apply


def with_other(array_name: str, change: Callable[[Arrays], NDArray[Any]]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {**arrays, array_name: change(arrays)} if array_name in arrays else arrays


def pad_with_noise(arrays: Arrays) -> NDArray[Any]:
    return np.where(segments_of(arrays) > 0, arrays["input_ids"], np.int32(7))


def see_everything(arrays: Arrays) -> Arrays:
    names = [name for name in ("segment_ids", "attention_mask") if name in arrays]
    return {**arrays, **{name: np.ones_like(arrays[name]) for name in names}}


def shift_positions(arrays: Arrays) -> Arrays:
    """Where they are told, each is one too low; where they are counted, padding comes first."""
    if "position_ids" not in arrays:
        return padded_left(7)(arrays)
    return {**arrays, "position_ids": np.maximum(arrays["position_ids"] - 1, 0)}


def unshift_logits(logits: Logits, arrays: Arrays) -> Logits:
    return logits if "position_ids" in arrays else per_token_logits(to_the_left)(logits, arrays)


def read_elsewhere(arrays: Arrays) -> Arrays:
    """The head of a whole text gets another token than the first."""
    if "first_tokens" in arrays:
        return {**arrays, "first_tokens": arrays["first_tokens"] + 1}
    return padded_left(None)(arrays)


def go_on_counting(arrays: Arrays) -> NDArray[Any]:
    longest = arrays["position_ids"].max()  # beyond it there may be none
    return np.broadcast_to(np.minimum(np.arange(arrays["input_ids"].shape[1], dtype=np.int32), longest),
                           arrays["input_ids"].shape).copy()  # fmt: skip


def kept_but(**changes: Any) -> Callable[..., NDArray[np.intp]]:
    original = text_tokenizer.kept
    return lambda sequence, max_length, side, cut: original(
        sequence, max_length - changes.get("fewer", 0), changes.get("sides", {}).get(side, side), cut
    )


def kinds_but(old: int, new: int) -> Callable[[Encoded], Encoded]:
    def apply(row: Encoded) -> Encoded:
        return row if row.kinds is None else replace(row, kinds=np.where(row.kinds == old, np.uint8(new), row.kinds))

    return apply


def offsets_by_one(row: Encoded) -> Encoded:
    return row if row.offsets is None else replace(row, offsets=row.offsets + 1)


@dataclass(frozen=True)
class Mutation:
    """`unnoticed`: on these architectures the answers must stay right. `heads`, `names`: what it can be tried on."""

    apply: Break
    unnoticed: tuple[str, ...] = ()
    heads: tuple[str, ...] = ("single", "tokens")
    names: tuple[str, ...] = EVERY


MUTATIONS: Mapping[str, Mutation] = {
    "the mask is dropped": Mutation(around_engine(see_everything)),
    "two texts of a row see each other": Mutation(
        around_engine(with_other("segment_ids", lambda arrays: (arrays["segment_ids"] + 1) // 2)), names=PACKED
    ),
    "positions go on from text to text": Mutation(
        around_engine(with_other("position_ids", go_on_counting)), unnoticed=RELATIVE,
        names=tuple(name for name in PACKED if name != "modernbert"),  # whose positions are turned, not counted
    ),
    # Which number a text has in its row is nothing to anybody.
    "texts are numbered backwards": Mutation(
        around_engine(with_other("segment_ids", lambda arrays: -arrays["segment_ids"] % 1000)), unnoticed=PACKED,
        names=PACKED,
    ),
    # Behind the mask and behind the text, nobody sees what the padding is.
    "padding is another token": Mutation(around_engine(with_other("input_ids", pad_with_noise)), unnoticed=EVERY),
    "tokens are in reverse order": Mutation(
        around_engine(
            reverse_tokens,
            lambda logits, arrays: reversed_in_texts(logits, arrays) if logits.ndim == 3 else logits,
        )
    ),
    "the first token is another": Mutation(around_engine(read_elsewhere), heads=("single",)),
    # Token heads read their own position. Packed rows are told all positions, so that a row may lie anywhere.
    "padding is on the left, logits are read there": Mutation(
        around_engine(padded_left(None), per_token_logits(to_the_left)), unnoticed=PACKED, heads=("tokens",)
    ),
    "positions are shifted": Mutation(
        around_engine(shift_positions, unshift_logits), unnoticed=RELATIVE, heads=("tokens",)
    ),
    # The others' tokenizers give no token types, or their models have none (DeBERTa-v3).
    "token types are zero": Mutation(
        around_engine(with_other("token_type_ids", lambda arrays: np.zeros_like(arrays["token_type_ids"]))),
        unnoticed=tuple(name for name in EVERY if name not in TYPED), heads=("single",),
    ),
    "pairs are swapped": Mutation(
        around_tokenizer(lambda texts: [item[::-1] if isinstance(item, tuple) else item for item in texts]),
        heads=("single",),
    ),
    "the second text is dropped": Mutation(
        around_tokenizer(lambda texts: [item[0] if isinstance(item, tuple) else item for item in texts]),
        heads=("single",),
    ),
    "rows are shuffled": Mutation(around_engine(after=lambda logits, _: logits[::-1])),
    "texts are shuffled": Mutation(around_tokenizer(lambda texts: list(texts)[::-1])),
    "texts are cut one token short": Mutation(replacing(text_tokenizer, "kept", kept_but(fewer=1))),
    "texts are cut on the other side": Mutation(
        replacing(text_tokenizer, "kept", kept_but(sides={"right": "left", "left": "right"}))
    ),
    "offsets are off by one": Mutation(around_tokenizer(after=offsets_by_one), heads=("tokens",)),
    "special tokens are words": Mutation(around_tokenizer(after=kinds_but(2, 0)), heads=("tokens",)),
    "each token is a word": Mutation(around_tokenizer(after=kinds_but(1, 0)), heads=("tokens",)),
    "each token goes on with a word": Mutation(around_tokenizer(after=kinds_but(0, 1)), heads=("tokens",)),
    "B- goes on with an entity": Mutation(
        replacing(Tags, "of", lambda labels, of=Tags.of: replace(of(labels), begins=np.zeros(len(labels), np.bool_))),
        heads=("tokens",),
    ),
    "softmax is sigmoid": Mutation(
        lambda monkeypatch, _: [
            monkeypatch.setattr(task, "softmax", sigmoid) for task in (text_classification, token_classification)
        ]
    ),
    "sigmoid is softmax": Mutation(replacing(text_classification, "sigmoid", softmax), heads=("multi",)),
    "a function is applied to raw scores": Mutation(
        replacing(text_classification, "function_for", lambda _: "sigmoid"), heads=("regression",)
    ),
    "classes are in another order": Mutation(
        around_engine(after=lambda logits, _: logits[..., ::-1]), heads=("single", "tokens", "multi")
    ),
}  # fmt: skip

CASES = [
    pytest.param(mutation, name, head, id=f"{mutation}-{name}.{head}")
    for mutation, it in MUTATIONS.items()
    for head in it.heads
    for name in (("bert",) if head in {"multi", "regression"} else it.names)
]


@pytest.fixture(scope="module")
def pipelines(zoo: Zoo) -> Callable[[str], Pipeline]:
    known: dict[str, Pipeline] = {}

    def get(name: str) -> Pipeline:
        if name not in known:
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv(TURNS, "off")  # rows of a call are fewer while other encoders are at work
                known[name] = Pipeline.load(zoo.model(name))
        return known[name]

    return get


def compare(reference: Reference, ask: Ask, head: str) -> Comparison:
    if head == "tokens":
        requests = [{"aggregation_strategy": it, "ignore_labels": "[]"} for it in ("none", "simple", "first")]
        return compare_tokens(reference, ask, TEXTS, requests, patience=1)
    comparison = compare_texts(reference, ask, TEXTS, [{"top_k": "all"}], patience=1)
    return comparison if comparison.problems else compare_texts(reference, ask, PAIRS, [{"top_k": "all"}], patience=1)


@pytest.mark.parametrize(("mutation", "name", "head"), CASES)
def test_is_noticed_where_it_matters(
    mutation: str, name: str, head: str, monkeypatch: pytest.MonkeyPatch,
    pipelines: Callable[[str], Pipeline], reference: Callable[[str], Reference],
) -> None:  # fmt: skip
    variant = f"{name}.{head}"
    pipeline = pipelines(variant)
    MUTATIONS[mutation].apply(monkeypatch, pipeline)
    comparison = compare(reference(variant), InProcess(pipeline), head)
    if name in MUTATIONS[mutation].unnoticed:
        comparison.check()
    else:
        assert comparison.problems


def test_every_architecture_is_tried() -> None:
    assert set(EVERY) == {*ARCHITECTURES, "deberta-v2.convolved"}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("head", ["single", "tokens"])
def test_nothing_is_wrong_without_a_mutation(
    name: str, head: str, pipelines: Callable[[str], Pipeline], reference: Callable[[str], Reference]
) -> None:
    compare(reference(f"{name}.{head}"), InProcess(pipelines(f"{name}.{head}")), head).check()
