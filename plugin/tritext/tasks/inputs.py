"""From a request's tensors to the rows that are encoded for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.errors import InvalidInput
from tritext.parameters import WindowParameters
from tritext.settings import TaskSettings
from tritext.text.inputs import TextInput
from tritext.text.windows import Windows

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Rows:
    """The M texts or pairs that a request of N rows asks the encoder for.

    `of` [M] says which of the N rows each one is for, in ascending order; None where it is one each. `carried` goes on
    to the postprocess stage, [M, …] by tensor name; where a text becomes `windows`, the first of them has it. `names`
    are those of the inputs that a text is read from, for messages.
    """

    texts: Sequence[TextInput]
    of: Sequence[int] | None = None
    carried: Arrays = field(default_factory=dict)
    names: tuple[str, ...] = (contract.TEXT.name, contract.TEXT_PAIR.name)
    windows: Windows | None = None

    @property
    def characters(self) -> int:
        """Of all of the texts, each as often as it is there."""
        return sum([len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in self.texts])

    def row(self, index: int) -> int:
        """The request's row that the text at `index` is for."""
        return index if self.of is None else self.of[index]

    def repeated(self, counts: Sequence[int]) -> "Rows":
        """Each text as often as `counts` [M] says; what is carried goes with the first, as 0 or "" with the others."""
        source = np.repeat(np.arange(len(counts)), counts)
        return replace(
            self,
            texts=[self.texts[index] for index in source],
            of=[self.row(index) for index in source.tolist()],
            carried={name: _spaced(array, counts) for name, array in self.carried.items()},
        )


def _spaced(array: NDArray[Any], counts: Sequence[int]) -> NDArray[Any]:
    """The rows of `array`, each at the begin of as many as its number in `counts`."""
    spaced = np.full((sum(counts), *array.shape[1:]), b"" if array.dtype == np.object_ else 0, dtype=array.dtype)
    spaced[np.cumsum(counts) - counts] = array
    return spaced


def windows_of(parameters: WindowParameters, settings: TaskSettings) -> Windows | None:
    """None where the request asks for none. The usual stride is a quarter of the model's maximum."""
    if parameters.truncation != "window":
        return None
    return Windows(settings.max_length // 4 if parameters.stride is None else parameters.stride)


def one_each(inputs: Arrays) -> Rows:
    """TEXT, and TEXT_PAIR where it was sent: then every row is a pair, also where the second text is empty."""
    firsts = decode(inputs[contract.TEXT.name], contract.TEXT.name)
    pairs = inputs.get(contract.TEXT_PAIR.name)
    if pairs is None:
        return Rows(firsts)
    seconds = decode(pairs, contract.TEXT_PAIR.name)
    if len(seconds) != len(firsts):
        raise InvalidInput(f"TEXT_PAIR has {len(seconds)} rows, TEXT has {len(firsts)}. Send one second text for each.")
    return Rows(list(zip(firsts, seconds, strict=True)))


def each_with_list(inputs: Arrays, one: str, many: str) -> list[tuple[int, str, int, str]]:
    """For each row its text of the input `one` with each of its list in `many` [N, C].

    As (row, text, place in the list, its text there). What is empty in a list only fills it up.
    """
    texts, lists = decode(inputs[one], one), decode(inputs[many], many)
    width = len(lists) // len(inputs[many])
    if len(inputs[many]) != len(texts):
        raise InvalidInput(f"{many} has {len(inputs[many])} rows, {one} has {len(texts)}. Send one row for each.")
    found = []
    for row, text in enumerate(texts):
        own = [(place, other) for place, other in enumerate(lists[row * width : (row + 1) * width]) if other.strip()]
        if not own:
            raise InvalidInput(f"{many}[{row}] is empty. Send at least one text there.")
        found += [(row, text, place, other) for place, other in own]
    return found


def check_repeated(parameter: str, value: str, times: int, more: int = 0) -> None:
    """InvalidInput where what goes with each of a request's texts, and has `more` put in, makes too much of them."""
    if (size := len(value) * times + more) > contract.MOST_BYTES:
        raise InvalidInput(
            f"Parameter {parameter} has {len(value):,} characters and goes with {times:,} texts, which comes to "
            f"{size:,}; {contract.MOST_BYTES:,} are the most. Send a shorter one, or fewer texts a request."
        )


def decode(array: NDArray[Any], name: str) -> list[str]:
    """The texts in a BYTES tensor, in order; InvalidInput names the one that is not UTF-8, or an empty tensor."""
    if array.size == 0:
        raise InvalidInput(f"{name} is empty. Send at least one text.")
    texts = []
    for index, raw in enumerate(array.reshape(-1)):
        try:
            texts.append(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            where = (
                f"{index}"
                if array.ndim < 2 or array.shape[1] == 1
                else ", ".join(map(str, divmod(index, array.shape[1])))
            )
            raise InvalidInput(
                f"{name}[{where}] is not valid UTF-8: byte {error.start} cannot be decoded ({error.reason}). Encode "
                "texts as UTF-8."
            ) from None
    return texts
