"""Are the built pipeline's answers the checkpoint's own? Token ids must be identical, logits within a bound.

The reference is the checkpoint in PyTorch in fp32 with its own tokenizer in transformers, one text at a time,
without padding. The pipeline gets all texts in one merged batch, so that padding and grouping are judged too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from tritext import contract
from tritext.build.checkpoint import Facts
from tritext.build.export import has_token_types
from tritext.engines.torch_heads import logits_of
from tritext.errors import BuildError, CheckpointError, ParityError, TritextError
from tritext.manifest import Example
from tritext.pipeline import Pipeline, Trace
from tritext.settings import TaskSettings
from tritext.stages.base import Request
from tritext.tasks import task_named
from tritext.text.inputs import TextInput

# How far a logit may be from the reference, as a share of the largest reference logit (at least 1) of all texts.
# fp32: rounding in another order of operations; fp16 and bf16: 11 and 8 bits of mantissa through every layer.
# int8 has no bound of this kind: build/gate.py judges it by its labels and scores.
TOLERANCE: Final[Mapping[str, float]] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
# What was measured at build may be exceeded by so much on another machine, of the same logits.
_SLACK: Final = 1.5


@dataclass(frozen=True, slots=True)
class Parity:
    """The figures of one comparison. Differences are absolute; `tolerance` is what was allowed."""

    texts: int
    tokens: int
    tolerance: dict[str, float]  # logits: the bound on a logit's difference
    max_logit_difference: float
    mean_logit_difference: float
    max_score_difference: float
    labels: int  # decisions compared: one a text, a token, or a class of a multi-label text
    labels_agree: int
    near_ties: int  # disagreements where the reference's two best logits are within the bound
    worst_text: str


def reference(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts,
              texts: Sequence[TextInput], advance: Callable[[], None] = lambda: None) -> list[Example]:  # fmt: skip
    """The checkpoint's own ids and logits for `texts`, cut right; `advance` is called after each.

    Those that are refused when they are served are left out: that have no token, whose mask was cut off, and pairs
    whose first text, which is not to be cut, fills the model alone.
    """
    tokenizer.truncation_side = "right"
    examples = []
    for item in texts:
        if example := _example(model, tokenizer, facts, item):
            examples.append(example)
        advance()
    return examples


def check_room(
    tokenizer: PreTrainedTokenizerBase, facts: Facts, texts: Sequence[TextInput], cure: str = "Give"
) -> None:
    """BuildError where `reference` would leave out all of `texts`; `cure` says what else can be done about it."""
    if all(_encoded(tokenizer, facts, text) is None for text in texts):
        raise BuildError(
            f"None of {len(texts)} texts can be asked: the model's {facts.max_length} tokens leave no room for what "
            f"{facts.task} needs. {cure} another --max-length."
        )


def _encoded(tokenizer: PreTrainedTokenizerBase, facts: Facts, item: TextInput) -> BatchEncoding | None:
    """None for what is refused when it is served."""
    task = task_named(facts.task)
    # As a batch of one: called with an empty second text alone, transformers takes it for none.
    try:
        encoded = tokenizer([item], truncation=task.cut, max_length=facts.max_length, return_tensors="pt")
    except Exception as error:  # tokenizers has no class for it
        if "too short to respect" not in str(error):
            raise
        return None
    ids = encoded["input_ids"]
    is_possible = (ids == tokenizer.mask_token_id).any() if task.per == "mask" else ids.numel()
    return encoded if is_possible else None


def _example(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Facts, item: TextInput
) -> Example | None:
    text, pair = item if isinstance(item, tuple) else (item, None)
    encoded = _encoded(tokenizer, facts, item)
    if encoded is None:
        return None
    if not has_token_types(model):
        encoded.pop(contract.TOKEN_TYPE_IDS.name, None)
    ids = encoded["input_ids"][0].numpy().astype(np.int32)
    logits = _logits(model, encoded, text)
    if task_named(facts.task).per == "mask":
        logits = logits[ids == tokenizer.mask_token_id]
    types = encoded.get(contract.TOKEN_TYPE_IDS.name)
    type_ids = np.zeros_like(ids) if types is None else types[0].numpy().astype(np.int32)
    return Example(text, pair, ids, type_ids, logits)


def _logits(model: PreTrainedModel, encoded: Mapping[str, torch.Tensor], text: str) -> NDArray[np.float32]:
    try:
        with torch.inference_mode():
            logits: NDArray[np.float32] = logits_of(model(**encoded))[0].float().numpy()
    except IndexError as error:  # what an embedding raises
        raise CheckpointError(
            f"The model has no embedding for an id or a token type that its tokenizer gives for {text[:60]!r}. The two "
            "do not belong together; --tokenizer names another tokenizer."
        ) from error
    return logits


def request_for(example: Example, settings: TaskSettings) -> Request:
    """The request that a client would send for `example`, cut as the reference is."""
    return Request(*task_named(settings.task).request(example.text, example.pair, settings))


def encoder_request(example: Example, settings: TaskSettings) -> Request:
    """What the encoder gets for `example` alone."""
    return Request(example.encoder_arrays(settings.encoder_inputs))


def compare(pipeline: Pipeline, examples: Sequence[Example], settings: TaskSettings, precision: str) -> Parity:
    """Run `examples` through `pipeline`; ParityError shows the worst one where an answer is out of bounds."""
    traces = pipeline.run([request_for(example, settings) for example in examples])
    differences: list[NDArray[np.float32]] = []
    served: list[NDArray[np.float32]] = []
    for example, trace in zip(examples, traces, strict=True):
        if isinstance(trace, TritextError):
            raise ParityError(f"The pipeline fails on {_quote(example)}: {trace.__cause__ or trace}") from trace
        _check_ids(example, trace)
        logits = trace.tensors[contract.LOGITS.name][0]
        if task_named(settings.task).per == "token":
            logits = logits[_mask(trace)]
        _check_shape(example, logits)
        served.append(logits)
        # NaN is as far off as can be, and must be found the worst.
        differences.append(np.nan_to_num(np.abs(logits - example.logits), nan=np.inf))
    with np.errstate(all="ignore"):  # of infinite logits
        parity = _figures(examples, served, differences, settings, precision)
    _check_figures(parity, precision)
    return parity


def _unpadded(trace: Trace, name: str) -> NDArray[Any]:
    """The first row of a tensor with one entry a token, without what a request was padded up to."""
    row: NDArray[Any] = trace.tensors[name][0]
    return row[_mask(trace)]


def _mask(trace: Trace) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = trace.tensors[contract.ATTENTION_MASK.name][0].astype(np.bool_)
    return mask


def _check_ids(example: Example, trace: Trace) -> None:
    ids = _unpadded(trace, contract.INPUT_IDS.name)
    same = np.array_equal(ids, example.input_ids) and (
        contract.TOKEN_TYPE_IDS.name not in trace.tensors
        or np.array_equal(_unpadded(trace, contract.TOKEN_TYPE_IDS.name), example.token_type_ids)
    )
    if not same:
        raise ParityError(
            f"The token ids of {_quote(example)} are not the checkpoint's: {ids[:12].tolist()} instead of "
            f"{example.input_ids[:12].tolist()}. The tokenizer's saved form differs from the one transformers loads."
        )


def _check_shape(example: Example, logits: NDArray[np.float32]) -> None:
    if not np.isfinite(example.logits).all():
        raise ParityError(f"The checkpoint itself, in PyTorch in fp32, gives no finite logits for {_quote(example)}.")
    if logits.shape != example.logits.shape:
        raise ParityError(
            f"The pipeline's logits for {_quote(example)} have the shape {logits.shape}, the checkpoint's "
            f"{example.logits.shape}."
        )


def _figures(examples: Sequence[Example], served: Sequence[NDArray[np.float32]],
             differences: Sequence[NDArray[np.float32]], settings: TaskSettings, precision: str) -> Parity:  # fmt: skip
    scale = max(1.0, *(float(np.abs(example.logits).max()) for example in examples))
    furthest = max(float(difference.max()) for difference in differences)
    bound = TOLERANCE[precision] * scale if precision in TOLERANCE else _SLACK * furthest + 1e-3 * scale
    task = task_named(settings.task)
    wanted, given = task.judged([example.logits for example in examples]), task.judged(served)
    expected, margins = task.decisions(wanted, settings)
    got, _ = task.decisions(given, settings)
    disagree = expected != got
    flat = np.concatenate([difference.reshape(-1) for difference in differences])
    worst = max(range(len(examples)), key=lambda index: float(differences[index].max()))
    return Parity(
        texts=len(examples),
        tokens=sum(len(example.input_ids) for example in examples),
        tolerance={"logits": bound},
        max_logit_difference=float(flat.max()),
        mean_logit_difference=float(flat.mean()),
        max_score_difference=float(task.drift(given, wanted, settings).max()),
        labels=int(expected.size),
        labels_agree=int((~disagree).sum()),
        near_ties=int((disagree & (margins <= 2 * bound)).sum()),
        worst_text=_quote(examples[worst]),
    )


def _check_figures(parity: Parity, precision: str) -> None:
    bound = parity.tolerance["logits"]
    if parity.max_logit_difference > bound:
        raise ParityError(
            f"The pipeline's logits differ from the checkpoint's by up to {parity.max_logit_difference:.3g}, more than "
            f"the {bound:.3g} allowed in {precision}; the worst text is {parity.worst_text}. "
            + ("Build with --precision fp32." if precision != "fp32" else "Try the other --engine, and report this.")
        )


def _quote(example: Example) -> str:
    text = example.text if example.pair is None else f"{example.text} | {example.pair}"
    return repr(text if len(text) <= 60 else text[:57] + "…")


def as_json(parity: Parity) -> dict[str, Any]:
    """For the manifest."""
    return asdict(parity)
