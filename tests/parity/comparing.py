"""Whether served answers are those of `transformers.pipeline`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asking import Ask, rows
from reference import Answer, Item, Reference, shape

# How far a score may be from the reference's in fp32: three times the largest difference measured. Logits go up to
# about 15 here, probabilities change four times less than they do at the most.
LOGIT_TOLERANCE = 1e-4
SCORE_TOLERANCE = 2e-5

STRATEGIES = ("none", "simple", "first", "average", "max")

Parameters = Mapping[str, Any]


@dataclass
class Comparison:
    """Collects how served answers differ from the reference's; at most `patience` differences."""

    reference: Reference
    patience: int = 1000
    problems: list[str] = field(default_factory=list)
    near_ties: list[str] = field(default_factory=list)
    compared: int = 0
    worst: float = 0.0  # the largest difference of a score

    def add(self, item: Item, served: Sequence[Answer], *, side: str = "right", **parameters: Any) -> None:
        """Compare the `served` answers for `item` with the reference's."""
        if len(self.problems) >= self.patience:
            return
        expected = self.reference.answers(item, side=side, **parameters)
        self.compared += 1
        where = f"{_quoted(item)} {side} {parameters or ''}"
        if shape(served) != shape(expected):
            if self.reference.is_near_tie(item, LOGIT_TOLERANCE, side=side, **parameters):
                self.near_ties.append(where)
            else:
                self.problems.append(f"{where}: {shape(served)[:6]} instead of {shape(expected)[:6]}")
            return
        differences = [abs(got["score"] - want["score"]) for got, want in zip(served, expected, strict=True)]
        self.worst = max([self.worst, *differences])
        are_logits = parameters.get("function_to_apply", self.reference.function) == "none"
        tolerance = LOGIT_TOLERANCE if are_logits else SCORE_TOLERANCE
        if not all(difference <= tolerance for difference in differences):  # a NaN differs too
            self.problems.append(f"{where}: scores differ by up to {max(differences):.2g}")

    def check(self) -> None:
        """Nothing may differ; near ties are few, or the comparison would mean little."""
        assert self.compared > 0
        assert not self.problems, f"{len(self.problems)} of {self.compared}: {self.problems[:3]}"
        assert len(self.near_ties) <= 0.01 * self.compared, self.near_ties[:3]


def _quoted(item: Item) -> str:
    text = item if isinstance(item, str) else " | ".join(item)
    return repr(text if len(text) <= 50 else text[:49] + "…")


def compare_texts(
    reference: Reference, ask: Ask, items: Sequence[Item], requests: Sequence[Parameters], *,
    default_side: str = "right", patience: int = 1000,
) -> Comparison:  # fmt: skip
    """Send all `items` in one request, once with each of `requests`' parameters, to a text classifier."""
    comparison = Comparison(reference, patience)
    for parameters in requests:
        side = parameters.get("truncation", default_side)
        for item, answers in zip(items, rows(ask(items, **parameters)), strict=True):
            comparison.add(item, answers, side=side, **_for_texts(parameters))
    return comparison


def _for_texts(parameters: Parameters) -> dict[str, Any]:
    """The same request in the pipeline's terms."""
    top_k = parameters.get("top_k", 1)
    options: dict[str, Any] = {"top_k": None if top_k == "all" else top_k}
    if parameters.get("function_to_apply", "default") != "default":
        options["function_to_apply"] = parameters["function_to_apply"]
    if "threshold" in parameters:
        options["threshold"] = float(parameters["threshold"])
    return options


def compare_tokens(
    reference: Reference, ask: Ask, texts: Sequence[str], requests: Sequence[Parameters], *, patience: int = 1000
) -> Comparison:
    """Send all `texts` in one request, once with each of `requests`' parameters, to a token classifier."""
    comparison = Comparison(reference, patience)
    for parameters in requests:
        side = parameters.get("truncation", "right")
        for text, entities in zip(texts, rows(ask(texts, **parameters)), strict=True):
            comparison.add(text, entities, side=side, **_for_tokens(parameters))
            wrong = [entity for entity in entities if text[entity["start"] : entity["end"]] != entity["word"]]
            if wrong:
                comparison.problems.append(f"WORD is not the text between START and END: {wrong[:2]}")
    return comparison


def _for_tokens(parameters: Parameters) -> dict[str, Any]:
    options: dict[str, Any] = {"aggregation_strategy": parameters.get("aggregation_strategy", "none")}
    match parameters.get("ignore_labels"):
        case "[]":
            options["ignore_labels"] = []
        case str(names):
            options["ignore_labels"] = [name.strip(' "') for name in names.strip("[]").split(",")]
    if "threshold" in parameters:
        options["threshold"] = float(parameters["threshold"])
    return options
