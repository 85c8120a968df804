"""The wire contract: every tensor's name, type and shape, said once.

A shape leaves out the first dimension, which is always the batch (N rows). ``-1`` is a dimension that
varies: L tokens, C classes, or K answers a row. Steps of the ensemble speak of ``input_ids`` and
``logits`` as the checkpoint does; what a client sends or gets is in capitals.
"""

from dataclasses import dataclass
from typing import Final, Literal

DataType = Literal["BYTES", "INT32", "FP32", "BOOL", "UINT8"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor. ``dims`` excludes the batch dimension; ``ragged`` ones differ between requests."""

    name: str
    datatype: DataType
    dims: tuple[int, ...]
    optional: bool = False
    ragged: bool = False


# What a client sends.
TEXT: Final = Tensor("TEXT", "BYTES", (1,))
TEXT_PAIR: Final = Tensor("TEXT_PAIR", "BYTES", (1,), optional=True)

# What a client gets: K answers a row, padded to the request's longest row with "" and 0.
LABEL: Final = Tensor("LABEL", "BYTES", (-1,))
SCORE: Final = Tensor("SCORE", "FP32", (-1,))
WORD: Final = Tensor("WORD", "BYTES", (-1,))
START: Final = Tensor("START", "INT32", (-1,))
END: Final = Tensor("END", "INT32", (-1,))
# How many of a row's K entries are answers.
COUNT: Final = Tensor("COUNT", "INT32", (1,))
# Tokens of the whole text, special tokens included, before any truncation.
TOKEN_COUNT: Final = Tensor("TOKEN_COUNT", "INT32", (1,))
TRUNCATED: Final = Tensor("TRUNCATED", "BOOL", (1,))

# Between the steps.
INPUT_IDS: Final = Tensor("input_ids", "INT32", (-1,), ragged=True)
ATTENTION_MASK: Final = Tensor("attention_mask", "INT32", (-1,), ragged=True)
TOKEN_TYPE_IDS: Final = Tensor("token_type_ids", "INT32", (-1,), ragged=True)
LOGITS: Final = Tensor("logits", "FP32", (-1,))
TOKEN_LOGITS: Final = Tensor("logits", "FP32", (-1, -1), ragged=True)
# Where each token lies in the text, in Unicode code points: start and end.
OFFSETS: Final = Tensor("offsets", "INT32", (-1, 2), ragged=True)
# One of WORD_START, SUBWORD and SPECIAL for each token; ELSEWHERE is added where a window overlaps a neighbour that
# knows more of what is around the token.
TOKEN_KIND: Final = Tensor("token_kind", "UINT8", (-1,), ragged=True)

# Where a text becomes several rows: the request's row that each of them is for.
ROW: Final = Tensor("ROW", "INT32", (1,))
# The same, and how many of the text's tokens a window is the one to answer for.
WINDOW: Final = Tensor("window", "INT32", (2,))
# The text, with the first of its rows; the others have "".
WHOLE_TEXT: Final = Tensor("text", "BYTES", (1,))

# Rows that one request may become.
MOST_ROWS: Final = 16_384

# Of a request's texts together. HTTP takes no larger body; gRPC brings any, and Triton (2.51) has no option against it.
MOST_BYTES: Final = 64 << 20

WORD_START: Final = 0
SUBWORD: Final = 1
SPECIAL: Final = 2
ELSEWHERE: Final = 4

ENCODER_INPUTS: Final = (INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS)
REPORT: Final = (TOKEN_COUNT, TRUNCATED)

# Keys in the ensemble's `parameters`, for any client to read.
PARAM_TASK: Final = "task"
PARAM_LABELS: Final = "labels"  # a JSON list, in the order of the checkpoint's class indices
PARAM_MAX_LENGTH: Final = "max_length"  # tokens, special tokens included
PARAM_BUILD: Final = "build"
PARAM_VERSION: Final = "tritext_version"
PARAM_SAMPLE: Final = "sample"  # a text that the model can answer, where not every text is one

# A request's parameter, of any value: that only TOKEN_COUNT is asked for, whereupon Triton leaves out the steps behind
# the tokenizer, which cannot see that. The hyphen has builds that do not know it take it for a forwarded header.
COUNT_ONLY: Final = "tritext-count-only"

TEXT_CLASSIFICATION: Final = "text-classification"
TOKEN_CLASSIFICATION: Final = "token-classification"  # noqa: S105 - no password

# Those that take a text in windows, where a request asks for it.
TAKE_WINDOWS: Final = (TEXT_CLASSIFICATION, TOKEN_CLASSIFICATION)
