"""Requests of many lengths that Triton merges into one batch are each answered as if they were alone."""

import re
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice

import pytest
from asking import Ask, rows
from comparing import Comparison
from hard_texts import PAIRS, SINGLE
from reference import Item, Reference
from zoo import Zoo

from tritext.naming import step_name
from tritext.serve import Server
from waiting import until

CALLERS = 16


def counted(server: Server, step: str) -> tuple[int, int]:
    """How many requests `step` has answered, and in how many batches."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:  # noqa: S310 - our own server
        metrics = answer.read().decode()
    found = [
        re.search(rf'^{name}{{model="{re.escape(step)}",[^}}]*}} (\d+)', metrics, re.MULTILINE)
        for name in ("nv_inference_request_success", "nv_inference_exec_count")
    ]
    requests, batches = (int(match[1]) if match else 0 for match in found)
    return requests, batches


@pytest.mark.parametrize(
    "name", ["bert.single", "roberta.single", "albert.single", "xlm-roberta.tokens", "deberta-v2.tokens"]
)
def test_merged_requests_do_not_mix(
    name: str, server: Server, zoo: Zoo, reference: Callable[[str], Reference], ask: Callable[[str, str], Ask]
) -> None:
    items: tuple[Item, ...] = (*SINGLE, *PAIRS) if name.endswith("single") else SINGLE
    # One to three texts a request, each request of other lengths; pairs and single texts stay apart.
    requests = [[item] for item in items] + [list(SINGLE[i : i + 3]) for i in range(0, len(SINGLE), 3)]
    requests = list(islice(cycle(requests), 4 * len(requests)))
    parameters = {"top_k": "all"} if name.endswith("single") else {"aggregation_strategy": "simple"}
    step = step_name(name, "encoder", zoo.model(name).build)
    before = counted(server, step)
    send = ask(name, "over gRPC")
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = list(pool.map(lambda texts: rows(send(texts, **parameters)), requests))
    until(lambda: counted(server, step)[0] - before[0] >= len(requests))  # Triton answers first and counts then
    after = counted(server, step)

    comparison = Comparison(reference(name))
    expected = {"top_k": None} if name.endswith("single") else parameters
    for request, answer in zip(requests, answers, strict=True):
        check(comparison, request, answer, expected)
    comparison.check()
    sent, batches = after[0] - before[0], after[1] - before[1]
    print(f"{name}: {sent} requests in {batches} batches")
    assert sent == len(requests)
    assert batches < 0.8 * sent


def check(comparison: Comparison, request: Sequence[Item], answer: Sequence[Sequence[dict[str, object]]],
          parameters: dict[str, object]) -> None:  # fmt: skip
    for item, found in zip(request, answer, strict=True):
        comparison.add(item, found, **parameters)
