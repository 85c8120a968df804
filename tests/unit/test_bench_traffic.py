"""What is sent: every text, in requests of the size asked for, with the tokens that the model will see."""

from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from fake_triton import strings
from tritext.bench.traffic import Traffic, traffic
from tritext.client.codec import RequestEncoder
from tritext.errors import InvalidInput

TEXTS = [f"text {number}" for number in range(5)]
COUNTS = [10, 20, 30, 40, 500]


def made(items: Any, counts: list[int], **options: Any) -> Traffic:
    return traffic(
        RequestEncoder("spam", {"top_k": 2}), items, counts, **{"batch_size": 1, "max_length": 512, **options}
    )


def sent(payload: bytes) -> tuple[str, int, list[list[str]]]:
    """Of a serialised request: model, top_k, the elements of each tensor."""
    request = service_pb2.ModelInferRequest.FromString(payload)
    columns = [strings(raw) for raw in request.raw_input_contents]
    return request.model_name, request.parameters["top_k"].int64_param, columns


def test_one_text_a_request() -> None:
    requests = made(TEXTS, COUNTS)
    assert [sent(payload) for payload in requests.payloads] == [("spam", 2, [[text]]) for text in TEXTS]
    assert (requests.texts, requests.tokens) == ([1] * 5, COUNTS)


def test_the_last_request_is_filled_up_from_the_first() -> None:
    requests = made(TEXTS, COUNTS, batch_size=2)
    texts = [sent(payload)[2][0] for payload in requests.payloads]
    assert texts == [TEXTS[:2], TEXTS[2:4], [TEXTS[4], TEXTS[0]]]
    assert requests.counts == [[10, 20], [30, 40], [500, 10]]
    assert (requests.texts, requests.tokens) == ([2, 2, 2], [30, 70, 510])


def test_fewer_texts_than_a_request_takes() -> None:
    requests = made(TEXTS[:2], COUNTS[:2], batch_size=5)
    assert [sent(payload)[2][0] for payload in requests.payloads] == [[*TEXTS[:2], *TEXTS[:2], TEXTS[0]]]


def test_tokens_that_are_cut_are_no_work() -> None:
    assert made(TEXTS, COUNTS, max_length=128).tokens == [10, 20, 30, 40, 128]


def test_whether_a_text_may_be_several_rows_is_told_along() -> None:
    assert [made(TEXTS, COUNTS).is_expanded, made(TEXTS, COUNTS, is_expanded=True).is_expanded] == [False, True]


def test_pairs() -> None:
    requests = made([("a", "b"), ("c", "")], [5, 4], batch_size=2)
    assert sent(requests.payloads[0])[2] == [["a", "c"], ["b", ""]]


def test_pairs_among_texts_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"texts\[1\] is a pair, those before it are not"):
        made(["a", ("b", "c")], [3, 4])
