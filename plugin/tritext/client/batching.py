"""Texts to requests: any number of items in, batches of bounded rows and bytes out, in order."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from tritext.client.errors import about
from tritext.errors import InvalidInput, TritextError

# A request, and the rows that a server makes of it, should stay well under what a server, a proxy or a queue takes in
# one piece.
MAX_BYTES: Final = 32 * 2**20
LENGTH_BYTES: Final = 4  # before each text on the wire

Text = str | tuple[str, str]


class Flush(Enum):
    """See `FLUSH`."""

    FLUSH = "flush"


FLUSH: Final = Flush.FLUSH
"""Among the texts of a live source: send what there is and give back every result before reading on."""

Texts = Iterable[str | Flush] | Iterable[tuple[str, str] | Flush]
AsyncTexts = AsyncIterable[str | Flush] | AsyncIterable[tuple[str, str] | Flush]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive items as UTF-8: `texts`, and as many `pairs` where the items are pairs.

    ``start`` is the index of the first among all the caller's items. Without texts it stands for a pause in a
    live source or for the end: all results are to be delivered before anything else happens, and then
    ``failure``, what the caller's iterable raised there, is to be raised.
    """

    start: int
    texts: list[bytes]
    pairs: list[bytes] | None = None
    failure: Exception | None = None

    @property
    def items(self) -> range:
        """Where the batch lies among the caller's items."""
        return range(self.start, self.start + len(self.texts))


class Batcher:
    """Cuts items into batches. Keeps only the batch it is filling.

    Where each item becomes `width` rows, its bytes count as often; `shared_bytes` is what else each brings along.
    """

    def __init__(self, max_rows: int, max_bytes: int = MAX_BYTES, *, width: int = 1, shared_bytes: int = 0) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._width, self._shared_bytes = width, shared_bytes
        self._are_pairs: bool | None = None
        self._next = 0  # index of the next item
        self._begin()

    def split(self, items: Texts) -> Iterator[Batch]:
        """All `items`, lazily; the last batch has no texts, and what `items` raised, if anything."""
        failure = None
        try:
            for item in items:
                yield from self._add(item)
        except Exception as error:  # noqa: BLE001 - not swallowed: it reaches the caller, in its place
            failure = error
        yield from self._end(failure)

    async def split_async(self, items: AsyncTexts) -> AsyncIterator[Batch]:
        """`split` for an asynchronous source."""
        failure = None
        try:
            async for item in items:
                for batch in self._add(item):
                    yield batch
        except Exception as error:  # noqa: BLE001 - as above
            failure = error
        for batch in self._end(failure):
            yield batch

    def _begin(self) -> None:
        self._texts: list[bytes] = []
        self._pairs: list[bytes] = []
        self._bytes = 0

    def _take(self) -> Batch:
        start = self._next - len(self._texts)
        batch = Batch(start, self._texts, self._pairs if self._are_pairs else None)
        self._begin()
        return batch

    def _end(self, failure: Exception | None = None) -> Iterator[Batch]:
        if self._texts:
            yield self._take()
        yield Batch(self._next, [], None, failure)

    def _add(self, item: object) -> Iterator[Batch]:
        if item is FLUSH:
            yield from self._end()
            return
        text, pair = self._read(item)
        size = (len(text) + len(pair) + 2 * LENGTH_BYTES) * self._width + self._shared_bytes
        if self._texts and self._bytes + size > self._max_bytes:
            yield self._take()
        self._texts.append(text)
        self._pairs.append(pair)
        self._bytes += size
        self._next += 1
        if len(self._texts) == self._max_rows:
            yield self._take()

    def _read(self, item: object) -> tuple[bytes, bytes]:
        match item:
            case str():
                is_pair, text, pair = False, item, ""
            case (str(text), str(pair)) if isinstance(item, tuple):
                is_pair = True
            case _:
                raise self._refusal(f"is {_kind(item)}. A text is a str, a pair is a tuple of two.")
        if self._are_pairs is None:
            self._are_pairs = is_pair
        if is_pair != self._are_pairs:
            raise self._refusal(
                f"is {'a pair' if is_pair else 'a single text'}, those before it are not. Send single texts and pairs "
                "in separate calls."
            )
        return self._encode(text), self._encode(pair)

    def _encode(self, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError as error:
            raise self._refusal(lone_surrogate(error)) from None

    def _refusal(self, sentence: str) -> TritextError:
        """The exception about the item that is being read."""
        return about(InvalidInput(f"texts[{self._next}] {sentence}"), range(self._next, self._next + 1))


def lone_surrogate(error: UnicodeEncodeError) -> str:
    """What a message says, after its name, of a text that could not be encoded."""
    return (
        f"holds a lone surrogate at position {error.start}, which UTF-8 cannot carry. It was most likely decoded "
        "wrongly; decode it again, or replace such characters."
    )


def _kind(item: object) -> str:
    if isinstance(item, tuple):
        return f"a tuple of ({', '.join(type(part).__name__ for part in item)})"
    return f"of type {type(item).__name__}"
