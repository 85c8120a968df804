"""How long the texts of a benchmark are, in tokens, and texts of that length made of real running words."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tritext.errors import InvalidInput

Count = Callable[[Sequence[str]], list[int]]
"""The tokens of each text, special tokens included, as the model's own tokenizer counts them."""

# Lengths count after a space, as words in running text have it: some tokenizers take a space into the token.
_LEAD: Final = "the"
_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal distribution of token counts, special tokens included: its median, 95th percentile and maximum."""

    median: int = 24
    p95: int = 120
    longest: int = 256

    @classmethod
    def parse(cls, written: str) -> "Lengths":
        """Read "24,120,256", or "16" where all texts are to have 16 tokens; InvalidInput where it is neither."""
        try:
            numbers = [int(part) for part in written.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 1:
            numbers *= 3
        if len(numbers) != 3 or not 1 <= numbers[0] <= numbers[1] <= numbers[2]:
            raise InvalidInput(
                f"--lengths is {written!r}. Give the median, the 95th percentile and the maximum in tokens, such as "
                "24,120,256, or one number for texts that are all of that length."
            )
        return cls(*numbers)

    def draw(self, count: int, seed: int, least: int, most: int) -> NDArray[np.int64]:
        """`count` lengths between `least` and `most` in random order.

        They are the distribution's quantiles, not a sample of it, so that every seed has the same lengths.
        """
        normal = NormalDist()
        sigma = math.log(self.p95 / self.median) / normal.inv_cdf(0.95)
        shares = (np.arange(count) + 0.5) / count
        deviations = np.array([normal.inv_cdf(share) for share in shares])
        lengths = np.exp(math.log(self.median) + sigma * deviations).round().astype(np.int64)
        return np.random.default_rng(seed).permutation(np.clip(lengths, least, min(self.longest, most)))

    def __str__(self) -> str:
        if self.median == self.longest:
            return f"all of {self.median} tokens"
        return f"log-normal with median {self.median}, 95th percentile {self.p95} and maximum {self.longest} tokens"


def running_words() -> list[str]:
    """English running text: the preamble and the first article of the Universal Declaration of Human Rights."""
    # By path: importing tritext.build would import what builds need.
    stored = json.loads(resources.files("tritext").joinpath("build", "texts.json").read_text(encoding="utf-8"))
    first, preamble = stored["declaration"][0], stored["declaration"][-1]
    return f"{preamble} {first}".split()


def texts_of(lengths: NDArray[np.int64], count: Count, seed: int) -> list[str]:
    """One text of running words for each of `lengths`, as exactly as `count` allows."""
    words = running_words()
    lead, *together = count([_LEAD, *(f"{_LEAD} {word}" for word in dict.fromkeys(words))])
    tokens = {word: total - lead for word, total in zip(dict.fromkeys(words), together, strict=True)}
    special = max(0, lead - 1)
    fillers = [word for word in words if tokens[word] == 1] or words
    random = np.random.default_rng(seed)
    made = [_running(words, tokens, fillers, int(length) - special, random) for length in lengths]
    for _ in range(_ROUNDS):
        counted = count([" ".join(text) for text in made])
        wrong = [place for place, length in enumerate(lengths) if counted[place] != length]
        if not wrong:
            break
        for place in wrong:
            missing = int(lengths[place]) - counted[place]
            made[place] = made[place][:missing] if missing < 0 else made[place] + _some(fillers, missing, random)
    return [" ".join(text) for text in made]


def _running(
    words: list[str], tokens: dict[str, int], fillers: list[str], wanted: int, random: np.random.Generator
) -> list[str]:
    """Words that follow each other in the source; one-token words where the next one would be too long."""
    text: list[str] = []
    place = int(random.integers(len(words)))
    while wanted > 0 and tokens[words[place % len(words)]] <= wanted:
        text.append(words[place % len(words)])
        wanted -= max(1, tokens[text[-1]])
        place += 1
    return text + _some(fillers, wanted, random)


def _some(words: list[str], count: int, random: np.random.Generator) -> list[str]:
    return [words[int(place)] for place in random.integers(len(words), size=max(0, count))]
