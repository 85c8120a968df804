"""Triton's counters: read from a real HTTP server, and what lies between two readings."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tritext.bench.metrics import Steps, between, parse, read, tokens
from tritext.errors import InvalidInput, Unavailable

STEPS = Steps("m_tokenizer_0", "m_encoder_0", "m_postprocess_0")
# As Triton 2.51 writes them.
PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="m",version="1"} 2
nv_inference_request_success{model="m_encoder_0",version="1"} 31
nv_inference_request_failure{model="m",reason="OTHER",version="1"} 2
nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 1
nv_pinned_memory_pool_total_bytes 268435456
nv_cpu_utilization 0.25
tritext_tokens_total{version="1",model="m_encoder_0"} 1.5e+06
broken{model="m" 3
odd{model="a \\"b\\", c",kind="x"} 7 1395066363000
"""


def page(step: str, requests: int, queue: int, stages: tuple[int, int, int]) -> str:
    label = f'{{model="m_{step}_0",version="1"}}'
    times = zip(("input", "infer", "output"), stages, strict=True)
    return "\n".join(
        [
            f"nv_inference_request_success{label} {requests}",
            f"nv_inference_exec_count{label} {requests // 4}",
            f"nv_inference_queue_duration_us{label} {queue}",
            *(f"nv_inference_compute_{stage}_duration_us{label} {spent}" for stage, spent in times),
        ]
    )


def pages(requests: int, milliseconds: int) -> str:
    """Each request took so long in the queue of each step, and so long times 2, 3 and 4 in the steps."""
    total = requests * milliseconds * 1000
    steps = ("tokenizer", 2), ("encoder", 3), ("postprocess", 4)
    return "\n".join(page(step, requests, total, (0, (factor - 1) * total, total)) for step, factor in steps)


@contextmanager
def serving(body: str, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_what_triton_writes_is_read() -> None:
    with serving(PAGE) as url:
        counters = read(url)
    assert counters == {
        ("nv_inference_request_success", "m"): 2,
        ("nv_inference_request_success", "m_encoder_0"): 31,
        ("nv_inference_request_failure", "m"): 3,
        ("tritext_tokens_total", "m_encoder_0"): 1.5e6,
        ("odd", 'a \\"b\\", c'): 7,
    }


def test_what_lies_between_two_readings_is_told_a_request() -> None:
    side = between(parse(pages(40, 9)), parse(pages(40, 9)), STEPS)
    assert side.encode is None  # nothing was asked meanwhile
    # 40 requests of 9 ms before, 100 of 6 ms altogether: 60 of 4 ms between.
    side = between(parse(pages(40, 9)), parse(pages(100, 6)), STEPS)
    assert (side.queue, side.tokenize, side.encode, side.postprocess) == pytest.approx((12, 8, 12, 16))
    assert side.requests_per_batch == pytest.approx(4)
    assert (side.texts_per_call, side.padding_waste) == (None, None)


def test_padding_is_what_was_computed_and_holds_no_token() -> None:
    def own(texts: int, tokens: int, computed: int, calls: int) -> str:
        values = {"texts": texts, "tokens": tokens, "computed_tokens": computed, "encoder_calls": calls}
        return "\n".join(f'tritext_{name}_total{{model="m_encoder_0"}} {value}' for name, value in values.items())

    side = between(parse(own(10, 100, 1000, 10)), parse(own(90, 1000, 2000, 30)), STEPS)
    assert (side.texts_per_call, side.padding_waste) == pytest.approx((4, 0.1))
    assert side.queue is None


def test_tokens_between_two_readings() -> None:
    def own(count: int) -> str:
        return f'tritext_tokens_total{{model="m_encoder_0"}} {count}\nnv_inference_count{{model="m"}} 1'

    assert tokens(parse(own(100)), parse(own(350)), STEPS) == 250
    assert tokens(parse(pages(1, 1)), parse(own(350)), STEPS) == 350  # it was not there before its first
    assert tokens({}, parse(own(350)), STEPS) is None  # not read
    assert tokens(parse(own(100)), {}, STEPS) is None
    assert tokens(parse(own(350)), parse(own(100)), STEPS) is None  # begun anew
    assert tokens(parse(own(350)), parse(own(350)), STEPS) is None  # whoever answered does not count


def test_a_model_that_is_not_there_has_no_figures() -> None:
    side = between(parse(PAGE), parse(PAGE), Steps("a", "b", "c"))
    assert set(vars_of(side)) == {None}


def vars_of(side: object) -> list[object]:
    return [getattr(side, name) for name in type(side).__dataclass_fields__]  # type: ignore[attr-defined]


def test_nobody_there_or_somebody_else() -> None:
    with serving("") as url:
        pass
    with pytest.raises(Unavailable, match=r"Nobody gives metrics at .*--metrics-url"):
        read(url)
    with serving("no", 503) as url, pytest.raises(Unavailable, match="HTTP 503"):
        read(url)
    with serving("<html>hello</html>") as url:
        assert read(url) == {}


@pytest.mark.parametrize(
    "url", ["localhost:8002", "https://there/metrics", "http://", "8002", "http://a:b/", "http://[a"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="http://HOST:PORT/metrics"):
        read(url)
