from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import InferInput, InferResult, service_pb2

from fake_triton import tensors
from tritext.client.batching import Batch
from tritext.client.codec import Malformed, RequestEncoder, decode, model_info
from tritext.client.options import wire_parameters
from tritext.client.results import Classification, Entity, LabelScore, ModelInfo, TokenClassification
from tritext.errors import InvalidInput
from tritext.tasks.text_classification import TASK as TEXTS
from tritext.tasks.token_classification import TASK as TOKENS


def reference(name: str, texts: list[str]) -> InferInput:
    """What tritonclient makes of the same texts."""
    tensor = InferInput(name, [len(texts), 1], "BYTES")
    return tensor.set_data_from_numpy(np.array(texts, dtype=object).reshape(-1, 1))


@given(st.lists(st.text(), min_size=1, max_size=5), st.booleans())
def test_requests_are_those_of_tritonclient(texts: list[str], paired: bool) -> None:
    encoded = [text.encode() for text in texts]
    request = RequestEncoder("spam", {}).encode(Batch(0, encoded, encoded[::-1] if paired else None))
    expected = [reference("TEXT", texts)] + ([reference("TEXT_PAIR", texts[::-1])] if paired else [])
    assert list(request.inputs) == [tensor._get_tensor() for tensor in expected]
    assert list(request.raw_input_contents) == [tensor._get_content() for tensor in expected]
    assert request.model_name == "spam"


def test_each_parameter_travels_as_its_own_type() -> None:
    options = {
        "top_k": 2,
        "threshold": 0.5,
        "truncation": "error",
        "flag": True,
        "ignore_labels": ["O", "MISC"],
        "function_to_apply": None,
        "huge": 2**70,
    }
    request = RequestEncoder("spam", wire_parameters(options)).encode(Batch(0, [b"a"]))
    sent = {name: (value.WhichOneof("parameter_choice"), getattr(value, value.WhichOneof("parameter_choice")))
            for name, value in request.parameters.items()}  # fmt: skip
    assert sent == {
        "top_k": ("int64_param", 2),
        "threshold": ("double_param", 0.5),
        "truncation": ("string_param", "error"),
        "flag": ("bool_param", True),
        "ignore_labels": ("string_param", '["O", "MISC"]'),
        "huge": ("string_param", str(2**70)),
    }


class Word(str, Enum):  # noqa: UP042 - its `str`, other than a StrEnum's, is "Word.LEFT"
    LEFT = "left"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (Fraction(1, 2), 0.5),
        (np.int64(2), 2),
        (np.uint64(2**63), str(2**63)),
        (np.True_, True),
        (np.False_, False),
        (np.str_("left"), "left"),
        (Word.LEFT, "left"),
        ([Word.LEFT, np.str_("O")], '["left", "O"]'),
        ({"b", "a"}, '["a", "b"]'),
    ],
)
def test_what_is_akin_to_a_plain_type_travels_as_that_type(value: object, expected: object) -> None:
    sent = wire_parameters({"option": value})["option"]
    assert (type(sent), sent) == (type(expected), expected)
    RequestEncoder("spam", {"option": sent})


def test_top_k_none_asks_for_all_labels_as_in_transformers() -> None:
    assert wire_parameters({"top_k": None, "threshold": None}) == {"top_k": "all"}


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], b"bytes", object()])
def test_a_parameter_that_cannot_travel_is_named(value: object) -> None:
    with pytest.raises(InvalidInput, match="Parameter top_k is of type"):
        wire_parameters({"top_k": value})


REPORT: dict[str, Any] = {"TOKEN_COUNT": ("INT32", [[5], [900]]), "TRUNCATED": ("BOOL", [[False], [True]])}


def labels(*rows: list[str], counts: list[int] | None = None, **more: Any) -> Any:
    columns = {
        "LABEL": ("BYTES", rows),
        "SCORE": ("FP32", [[0.5] * len(row) for row in rows]),
        "COUNT": ("INT32", [[count] for count in counts or map(len, rows)]),
        **REPORT,
        **more,
    }
    return tensors(len(rows), **columns)


def test_padding_is_left_out() -> None:
    assert decode(labels(["ham", "späm"], ["ham"]), 2, TEXTS) == [
        Classification((LabelScore("ham", 0.5), LabelScore("späm", 0.5)), 5, truncated=False),
        Classification((LabelScore("ham", 0.5),), 900, truncated=True),
    ]


def test_rows_may_be_wider_than_any_count() -> None:
    results = decode(labels(["a", "b"], ["c", "d"], counts=[1, 1]), 2, TEXTS)
    assert [[pair.label for pair in result.labels] for result in results] == [["a"], ["c"]]  # type: ignore[union-attr]


def test_no_label_at_all_is_an_answer() -> None:
    results = decode(labels([], []), 2, TEXTS)
    assert results == [Classification((), 5, truncated=False), Classification((), 900, truncated=True)]
    assert isinstance(results[0], Classification)
    assert results[0].label is None
    assert results[0].score is None


def test_entities() -> None:
    response = labels(
        ["PER"],
        ["LOC", "PER"],
        WORD=("BYTES", [["Ada"], ["Zürich", "👩‍🔬"]]),
        START=("INT32", [[0], [3, 12]]),
        END=("INT32", [[3], [9, 15]]),
    )
    assert decode(response, 2, TOKENS) == [
        TokenClassification((Entity("PER", 0.5, "Ada", 0, 3),), 5, truncated=False),
        TokenClassification(
            (Entity("LOC", 0.5, "Zürich", 3, 9), Entity("PER", 0.5, "👩‍🔬", 12, 15)), 900, truncated=True
        ),
    ]


@given(st.lists(st.lists(st.text(max_size=5), max_size=4), min_size=2, max_size=2))
def test_strings_are_those_of_tritonclient(rows: list[list[str]]) -> None:
    response = labels(*rows)
    names = [[pair.label for pair in result.labels] for result in decode(response, 2, TEXTS)]  # type: ignore[union-attr]
    array = InferResult(response).as_numpy("LABEL")
    expected = [[value.decode() for value in row[: len(names[i])]] for i, row in enumerate(array)]
    assert names == expected


def damaged(name: str, content: bytes | None) -> Any:
    response = labels(["ham"], ["spam"])
    index = [output.name for output in response.outputs].index(name)
    if content is None:
        del response.outputs[index], response.raw_output_contents[index]
    else:
        response.raw_output_contents[index] = content
    return response


@pytest.mark.parametrize("name", ["LABEL", "SCORE", "COUNT", "TOKEN_COUNT", "TRUNCATED"])
def test_a_missing_output_is_named(name: str) -> None:
    with pytest.raises(Malformed, match=f"no {name} in it"):
        decode(damaged(name, None), 2, TEXTS)


def test_an_output_of_another_task_is_named() -> None:
    with pytest.raises(Malformed, match="there is END, WORD in it, which is nothing of text-classification"):
        decode(labels(["ham"], ["spam"], WORD=("BYTES", [["a"], ["b"]]), END=("INT32", [[1], [1]])), 2, TEXTS)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x09\x00\x00\x00ab", b"\xff\xff\xff\xff", b"\x01\0\0\0\xff" * 2])
@pytest.mark.parametrize("name", ["LABEL", "SCORE", "COUNT", "TOKEN_COUNT", "TRUNCATED"])
def test_bytes_that_do_not_follow_the_contract_are_refused(name: str, content: bytes) -> None:
    with pytest.raises(Malformed):
        decode(damaged(name, content), 2, TEXTS)


@pytest.mark.parametrize("counts", [[1, 2], [-1, 1]])
def test_counts_beyond_the_row_are_refused(counts: list[int]) -> None:
    with pytest.raises(Malformed, match="do not fit 2 texts"):
        decode(labels(["ham"], ["spam"], counts=counts), 2, TEXTS)


def test_another_number_of_rows_is_refused() -> None:
    with pytest.raises(Malformed):
        decode(labels(["ham"], ["spam"]), 3, TEXTS)


def config(**parameters: str) -> Any:
    response = service_pb2.ModelConfigResponse()
    response.config.name = "spam"
    response.config.max_batch_size = 64
    for name, value in parameters.items():
        response.config.parameters[name].string_value = value
    return response


GOOD = {"task": "text-classification", "labels": '["ham", "späm"]', "max_length": "128", "build": "3f9c01aa"}


def test_model_info() -> None:
    expected = ModelInfo("spam", "text-classification", ("ham", "späm"), 128, 64, "3f9c01aa")
    assert model_info(config(**GOOD), "here:1") == expected


def test_a_model_of_another_maker_is_refused() -> None:
    with pytest.raises(InvalidInput, match="Model spam at here:1 is not a model made by `tritext build`"):
        model_info(config(), "here:1")


@pytest.mark.parametrize(("name", "value"), [("labels", None), ("build", None), ("labels", "x"), ("max_length", "x")])
def test_a_damaged_configuration_is_told(name: str, value: str | None) -> None:
    parameters = {key: old for key, old in (GOOD | {name: value}).items() if old is not None}
    with pytest.raises(Malformed, match="its configuration"):
        model_info(config(**parameters), "here:1")
