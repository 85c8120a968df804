"""What a benchmark sends: requests that were serialised once, and what each of them weighs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import cast

from tritext.client.batching import Batch, Batcher, Texts
from tritext.client.codec import RequestEncoder

Item = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests, sent in this order again and again.

    ``payloads`` are ModelInferRequest messages as bytes; ``counts`` are the tokens of each text in each of them,
    before truncation; ``texts`` and ``tokens`` are sums a request, of the tokens that the model sees where each text is
    one row for it. Where a text may be several, ``is_expanded``, only the server knows those.
    """

    payloads: list[bytes]
    counts: list[list[int]]
    texts: list[int]
    tokens: list[int]
    is_expanded: bool = False


def traffic(
    encoder: RequestEncoder,
    items: Sequence[Item],
    counts: Sequence[int],
    *,
    batch_size: int,
    max_length: int,
    is_expanded: bool = False,
) -> Traffic:
    """Requests of `batch_size` texts (or pairs) each that hold all `items`; the last is filled up from the first.

    `counts` are the items' tokens before truncation to `max_length`, of an item in several rows those of the longest.
    """
    size = -(-len(items) // batch_size) * batch_size
    batches = list(cut(list(islice(cycle(items), size)), batch_size))
    counted = [_counted(batch, counts) for batch in batches]
    return Traffic(
        payloads=[encoder.encode(batch).SerializeToString() for batch in batches],
        counts=counted,
        texts=[len(batch.texts) for batch in batches],
        tokens=[sum(min(count, max_length) for count in each) for each in counted],
        is_expanded=is_expanded,
    )


def cut(items: Sequence[Item], size: int) -> Iterator[Batch]:
    """Batches of `size`, fewer where they would be too many bytes; InvalidInput where pairs stand among texts."""
    for batch in Batcher(size).split(cast("Texts", items)):
        if batch.failure is not None:
            raise batch.failure
        if batch.texts:
            yield batch


def _counted(batch: Batch, counts: Sequence[int]) -> list[int]:
    return [counts[item % len(counts)] for item in batch.items]
