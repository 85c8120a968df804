import io

import numpy as np
import pytest
from rich.console import Console

from benchmarks.peers import report
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.measure import Load, Record, window
from benchmarks.peers.results import at_rates, figures, verdicts
from benchmarks.peers.setup import names, requirements
from tritext.bench.summary import Summary

ONE, MANY, RATE = Load("closed", 1), Load("closed", 16), Load("open", 8.0)


def summary(tokens: float, failed: int = 0) -> Summary:
    return Summary(
        seconds=1.0, requests=10, requests_per_second=tokens / 40, texts_per_second=tokens / 40,
        tokens_per_second=tokens, p50=1.0, p90=1.0, p99=1.0, mean=1.0, max=1.0,
        failed={"HTTP 500": failed} if failed else {}, generator_cpu_seconds=0.1, generator_cores=0.1,
        generator_cpu_ms_per_request=1.0, late_p99=0.0,
    )  # fmt: skip


def record(name: str, rounds: dict[Load, list[float]], milliseconds: float = 10.0) -> Record:
    seen = {load: [summary(tokens) for tokens in each] for load, each in rounds.items()}
    latencies = {load: [np.full(10, milliseconds / 1e3) for _ in each] for load, each in rounds.items()}
    return Record(peer=PEERS[name], rounds=seen, latencies=latencies)


def test_a_ratio_is_taken_round_by_round_and_each_server_at_its_best_level() -> None:
    ours = record("tritext", {ONE: [1.0, 1.0, 1.0], MANY: [1000.0, 500.0, 4000.0]})
    # The machine was half as fast in the second round, for both.
    theirs = record("fastapi", {ONE: [100.0, 50.0, 100.0], MANY: [90.0, 45.0, 90.0]})

    row = verdicts({"tritext": ours, "fastapi": theirs}, "bert-base")["default against FastAPI + pipeline"]

    assert row["ratio"] == 10.0
    assert row["met"] is True


def test_like_for_like_compares_with_the_fastest_peer_of_the_same_precision() -> None:
    records = {
        name: record(name, {MANY: [tokens] * 5})
        for name, tokens in {
            "tritext-bf16": 250.0, "tritext-int8": 900.0, "fastapi-bf16": 100.0, "fastapi-int8": 300.0,
            "litserve-int8": 700.0,
        }.items()
    }  # fmt: skip

    found = verdicts(records, "minilm")

    assert found["bf16 against the best peer in bf16"]["ratio"] == 2.5
    assert found["bf16 against the best peer in bf16"]["met"] is True
    assert found["int8 against the best peer in int8"]["peer"] == "litserve-int8"
    assert found["int8 against the best peer in int8"]["met"] is False
    assert found["best against best"]["ratio"] == pytest.approx(900 / 700, abs=0.01)
    assert found["best against best"]["met"] is None


def test_a_failed_request_counts_as_one_that_never_ended() -> None:
    slow = record("fastapi", {ONE: [100.0]})
    slow.latencies[ONE] = [np.array([0.01] * 97 + [np.inf] * 3)]
    slow.rounds[ONE] = [summary(100.0, failed=3)]

    seen = figures(slow, ONE)

    assert seen.p50 == pytest.approx(10.0)
    assert seen.p99 is None
    assert seen.failed == 3


def test_latencies_are_compared_at_rates_that_the_peer_carried() -> None:
    ours = record("tritext", {MANY: [4000.0], RATE: [320.0]}, milliseconds=5.0)
    carried = record("fastapi", {MANY: [400.0], RATE: [320.0]}, milliseconds=50.0)
    drowned = record("litserve", {MANY: [400.0], RATE: [200.0]}, milliseconds=900.0)

    rows = at_rates({"tritext": ours, "fastapi": carried, "litserve": drowned})

    assert [(row["peer"], row["rate"], row["tritext_better"]) for row in rows] == [("fastapi", 8.0, True)]


def test_the_tables_and_the_document_name_who_took_part_who_did_not_and_every_version() -> None:
    records = {name: record(name, {ONE: [100.0] * 5, MANY: [200.0] * 5}) for name in ("tritext", "fastapi", "infinity")}
    absent = {"pytriton": "it did not start"}
    console = Console(record=True, width=140, file=io.StringIO())

    console.print(report.tables(records, absent, "minilm"))
    printed = console.export_text()
    document = report.document(records, absent, {"command": "…"}, "minilm")

    assert all(name in printed for name in (*records, *absent))
    assert f"torch {requirements('transformers')['torch']}" in printed
    assert document["servers"]["infinity"]["versions"]["infinity-emb"] == requirements("infinity")["infinity_emb"]
    assert document["absent"] == absent


def test_the_engine_alone_is_the_limit_of_what_a_server_around_it_can_reach() -> None:
    records = {"tritext": record("tritext", {ONE: [90.0, 80.0]}), "fastapi": record("fastapi", {ONE: [10.0, 20.0]})}
    alone = [100.0, 120.0]
    console = Console(record=True, width=140, file=io.StringIO())

    console.print(report.tables(records, {}, "minilm", alone))

    assert report.document(records, {}, {}, "minilm", alone)["engine_alone"] == {
        "tokens_per_second": 110.0,
        "times": {"fastapi": 8.0},
    }
    assert "alone, full calls: 110 tokens/s; 8.00 times fastapi" in console.export_text()


def test_a_slow_server_gets_the_time_that_its_callers_need_to_come_round() -> None:
    assert window(MANY, capacity=1000.0, seconds=3.0) == (0.5, 3.0)
    assert window(MANY, capacity=4.0, seconds=3.0) == (2.0, 4.0)


def test_rates_are_shared_and_can_be_carried() -> None:
    assert report.rungs(100.0) == [Load("open", 32.0), Load("open", 64.0)]
    assert report.rungs(70.0) == [Load("open", 16.0), Load("open", 32.0)]


@pytest.mark.parametrize("name", names())
def test_every_package_of_an_environment_is_pinned(name: str) -> None:
    pins = requirements(name)

    assert pins.get("torch", "2.13.0") == "2.13.0"  # others would bring gigabytes of CUDA
    assert all(version and not version.startswith(("=", ">")) for version in pins.values())


def test_every_peer_has_an_environment_and_versions_to_report() -> None:
    for peer in PEERS.values():
        assert peer.environment is None or peer.environment in names()
        assert all(report.versions(peer).values())
