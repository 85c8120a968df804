"""Architectures that are refused by name, since no graph of theirs gives the checkpoint's answers."""

from collections.abc import Mapping
from typing import Final

from transformers import PretrainedConfig

from tritext.errors import CheckpointError, ExportError

# By model type. What is in neither table is tried, and its answers are compared like any other's.
REFUSED: Final[Mapping[str, str]] = {
    "convbert": "its convolutions see the padding that a batch adds, so that a text's answer depends on its neighbours",
    "fnet": "its Fourier transform has no ONNX operation, and mixes a text with its padding",
    "longformer": "its attention cuts a text into windows by its length, which a traced graph fixes",
    "mra": "it approximates attention with blocks chosen in code, which a traced graph fixes",
    "nystromformer": "its attention needs every text padded to one length",
    "reformer": "its attention is drawn at random",
    "yoso": "its attention is drawn at random",
}
# Those whose answers padding changes, and packed rows do not.
ONLY_PACKED: Final[Mapping[str, str]] = {"mobilebert": "MobileBERT's embeddings see the padding behind a text"}


def check(config: PretrainedConfig, name: str, max_length: int) -> None:
    """CheckpointError where the checkpoint `name` is of an architecture that cannot be served."""
    if reason := REFUSED.get(config.model_type):
        raise CheckpointError(f"{name} is a {config.model_type}, which is not supported: {reason}.")
    if config.model_type == "big_bird" and config.attention_type == "block_sparse":
        longest = (5 + 2 * config.num_random_blocks) * config.block_size  # BigBirdModel.forward
        if max_length > longest:
            raise CheckpointError(
                f"{name} is a BigBird with block-sparse attention, which looks at random blocks of a text of more than "
                f"{longest} tokens. Build it with --max-length {longest}, up to which its attention is full."
            )


def loaded_with(model_type: str) -> dict[str, str]:
    """What the configuration says otherwise when the weights are loaded."""
    # Up to the length that `check` allows it is what transformers itself changes to, at the first text.
    return {"attention_type": "original_full"} if model_type == "big_bird" else {}


def check_padded(model_type: str, instead: str) -> None:
    """ExportError where a graph of padded rows would give other answers; `instead` is what to do."""
    if reason := ONLY_PACKED.get(model_type):
        raise ExportError(f"{reason}, so that it cannot be built with one text a row. {instead}")
