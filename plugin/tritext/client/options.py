"""Request parameters: what a caller may write, and how each travels."""

import json
import numbers
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypedDict

from tritext.client.batching import lone_surrogate
from tritext.errors import InvalidInput

Scalar = bool | int | float | str

# The longest whole number that a parameter can hold on the wire.
_INT64: Final = range(-(2**63), 2**63)


class Options(TypedDict, total=False):
    """The parameters of a request, and what all its texts share (``candidate_labels``, ``documents``).

    What is left out, the model decides; the server judges the values. ``top_k=None`` asks for all labels, as in
    transformers; any other None is as good as left out.
    """

    # every task
    truncation: Literal["error", "right", "left", "window"] | None
    threshold: float | None
    # classification of texts and of tokens
    stride: int | None
    # text classification
    windows: Literal["mean", "max"] | None
    top_k: int | Literal["all"] | None
    function_to_apply: Literal["default", "softmax", "sigmoid", "none"] | None
    truncation_strategy: Literal["longest_first", "only_first", "only_second"] | None
    # token classification
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None
    ignore_labels: Sequence[str] | str | None
    # feature extraction
    normalize: bool | None
    prompt: str | None
    prompt_name: str | None
    # zero-shot classification
    candidate_labels: Sequence[str] | str | None
    hypothesis_template: str | None
    multi_label: bool | None
    # reranking
    documents: Sequence[str] | str | None
    # question answering
    max_answer_length: int | None
    handle_impossible_answer: bool | None
    doc_stride: int | None
    max_seq_len: int | None
    # fill-mask
    targets: Sequence[str] | str | None


class CallOptions(Options, total=False):
    """`Options`, and how a call goes about it.

    ``timeout`` in seconds; ``batch_size``: the most texts in one request; ``max_in_flight``: how many requests
    at a time; ``retries``: how often a request is sent again that the server refuses for now, 0 for never. Without
    it: until the timeout where there is too much load, a few times where a step of the model has died.
    """

    timeout: float | None
    batch_size: int | None
    max_in_flight: int | None
    retries: int | None


def wire_parameters(options: Mapping[str, object]) -> dict[str, Scalar]:
    """The parameters to send: a list becomes JSON, None is left out. InvalidInput names what cannot be sent."""
    sent: dict[str, Scalar] = {}
    for name, value in options.items():
        if name == "top_k" and value is None:
            sent[name] = "all"
        elif value is not None:
            sent[name] = _scalar(name, value)
    return sent


def _text(name: str, value: str) -> str:
    """`value` as a str of no other type; InvalidInput names its parameter where UTF-8 cannot carry it."""
    plain = str.__str__(value)  # an Enum's own says its name
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"Parameter {name} {lone_surrogate(error)}") from None
    return plain


def _scalar(name: str, value: object) -> Scalar:
    """`value` as one of the plain types, which numpy's numbers and an Enum's members are not, or are only akin to."""
    match value:
        case bool():
            return value
        case numbers.Integral():
            number = int(value)
            return number if number in _INT64 else str(number)
        case numbers.Real():
            return float(value)
        case str():
            return _text(name, value)
        case list() | tuple() | set() | frozenset() if all(isinstance(part, str) for part in value):
            parts = sorted(value) if isinstance(value, set | frozenset) else value
            return json.dumps([_text(f"{name}[{index}]", part) for index, part in enumerate(parts)])
    if type(value).__name__ in ("bool", "bool_"):  # numpy's, by its versions; `numbers` knows no such thing
        return bool(value)
    raise InvalidInput(
        f"Parameter {name} is of type {type(value).__name__}, which cannot be sent. "
        "Give a number, a string, True or False, or a list of strings."
    )
