"""A text's logits do not depend on what else is in the batch, beyond rounding in another order of operations.

In fp32, on every architecture and both engines: at most 2e-6 of the model's largest logit, measured; and to the bit
where the others have other words of the same lengths.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from zoo import VARIANTS, Zoo

from checkpoints import ARCHITECTURES, MORE_ARCHITECTURES
from tritext.build.parity import encoder_request
from tritext.errors import TritextError
from tritext.manifest import Example
from tritext.repository import BuiltModel
from tritext.settings import EngineSettings, TaskSettings, Variant
from tritext.stages.encoder import EncoderStage

PADDED = ("deberta-v2.convolved", "deberta.")  # which cannot be packed
NOISE = 2e-5  # of the largest logit
CROWD = 300
ENCODERS = [
    name
    for base in (*ARCHITECTURES, *MORE_ARCHITECTURES, "deberta-v2.convolved", "modernbert.mean")
    for name in (f"{base}.single", f"{base}.tokens", f"{base}.tokens.onnxruntime")
    if name in VARIANTS
]

Logits = list[NDArray[np.float32]]


class Encoder:
    """The encoder step of a built model, as it was built."""

    def __init__(self, model: BuiltModel) -> None:
        self._settings = TaskSettings.read(model.step("postprocess"))
        engine = EngineSettings.read(model.step("encoder"))
        self.variant: Variant = engine.variants[0]
        self._stage = EncoderStage.of(engine, self.variant, model.step("encoder"))

    def __call__(self, examples: Sequence[Example]) -> Logits:
        """Logits of all `examples`, each a request, merged into one batch."""
        answers = self._stage.process([encoder_request(example, self._settings) for example in examples])
        found = []
        for answer in answers:
            assert not isinstance(answer, TritextError), answer
            found.append(answer["logits"][0])
        return found


def furthest(got: Logits, expected: Logits) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True))


def with_other_ids(example: Example, random: np.random.Generator) -> Example:
    return replace(example, input_ids=random.permutation(example.input_ids))


@pytest.mark.parametrize("name", ENCODERS)
def test_a_text_is_answered_alike_alone_in_a_full_row_and_in_a_crowd(name: str, zoo: Zoo) -> None:
    model = zoo.model(name)
    encoder, examples = Encoder(model), model.reference()
    assert (encoder.variant.layout["kind"] == "packed") == (not name.startswith(PADDED))
    scale = max(float(np.abs(example.logits).max()) for example in examples)
    alone = [encoder([example])[0] for example in examples]
    random = np.random.default_rng(0)

    by_length = sorted(range(len(examples)), key=lambda index: examples[index].input_ids.size)
    few = by_length[:8]  # they fill no more than one row
    row = encoder([examples[index] for index in few])
    found = {"in a row": furthest(row, [alone[index] for index in few])}

    order = random.permutation(np.resize(np.arange(len(examples)), CROWD))
    crowd = encoder([examples[index] for index in order])
    found["in a crowd"] = furthest(crowd, [alone[index] for index in order])

    # Every second text of the crowd becomes another one of the same length; the others lie where they did.
    others = [with_other_ids(examples[index], random) if at % 2 else examples[index] for at, index in enumerate(order)]
    changed = encoder(others)
    found["neighbours changed"] = furthest(changed[::2], crowd[::2])

    shares = {what: difference / scale for what, difference in found.items()}
    print(name, {what: f"{share:.1e}" for what, share in shares.items()})
    assert all(share <= NOISE for share in shares.values()), shares
    assert furthest(changed[1::2], crowd[1::2]) > 100 * NOISE * scale  # the change was one
