"""The server's own account: Triton's Prometheus counters, read before and after, and what lies between.

Triton counts times per request: each request of a merged batch counts the whole batch's time, which is what that
request waited for. Source: Triton's metrics documentation, "Inference Request Metrics" and "Latencies".
"""

import http.client
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from tritext.errors import InvalidInput, Unavailable

Counters = Mapping[tuple[str, str], float]
"""The value of each metric by its name and its label `model`."""

_LINE: Final = re.compile(
    r"(?P<name>[A-Za-z_:][\w:]*)\{(?P<labels>.*)\}\s+(?P<value>-?\d[\d.]*(?:[eE][-+]?\d+)?)(?:\s+\d+)?"
)
_MODEL: Final = re.compile(r'(?:^|,)\s*model="(?P<model>(?:[^"\\]|\\.)*)"')
_TIMEOUT: Final = 5.0

_STAGES: Final = ("input", "infer", "output")


@dataclass(frozen=True, slots=True)
class Steps:
    """The Triton models that an ensemble runs, one after the other."""

    tokenizer: str
    encoder: str
    postprocess: str


@dataclass(frozen=True, slots=True)
class ServerSide:
    """Means over the requests that the server finished in the window. Times are milliseconds a request.

    ``requests_per_batch`` is how many requests the encoder step got at a time, ``texts_per_call`` how many texts its
    engine got in a call; ``padding_waste`` is the share of the positions it computed that hold no token. These three
    are None where the server does not count them.
    """

    queue: float | None
    tokenize: float | None
    encode: float | None
    postprocess: float | None
    requests_per_batch: float | None
    texts_per_call: float | None
    padding_waste: float | None


def read(url: str) -> Counters:
    """Fetch the counters; Unavailable where nobody answers, InvalidInput where `url` is none."""
    host, port, path = _parts(url)
    # No proxy of the environment: the counters are those of this one server.
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # the last: what can be no host's name
        raise Unavailable(f"Nobody gives metrics at {url} ({error}). --metrics-url says where they are.") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise Unavailable(f"{url} answers with HTTP {response.status}. --metrics-url says where the metrics are.")
    return parse(text)


def _parts(url: str) -> tuple[str, int, str]:
    """Host, port and path; InvalidInput where `url` has no such."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if not host or parts.scheme != "http":
        raise InvalidInput(f"--metrics-url is {url!r}. Give it as http://HOST:PORT/metrics.")
    return host, port, parts.path or "/metrics"


def parse(text: str) -> Counters:
    """Every metric with a label `model`, of all its other labels (version, reason) together."""
    counters: dict[tuple[str, str], float] = {}
    for line in text.splitlines():
        if (metric := _LINE.fullmatch(line.strip())) and (model := _MODEL.search(metric["labels"])):
            key = (metric["name"], model["model"])
            counters[key] = counters.get(key, 0.0) + float(metric["value"])
    return counters


def tokens(before: Counters, after: Counters, steps: Steps) -> float | None:
    """How many the encoder got from `before` to `after`, padding left out; None where they were not counted on."""
    key = ("tritext_tokens_total", steps.encoder)
    grown = after.get(key, 0.0) - before.get(key, 0.0)
    return grown if before and grown > 0 else None


def between(before: Counters, after: Counters, steps: Steps) -> ServerSide:
    """What the server did from `before` to `after`."""
    grown = {key: value - before.get(key, 0.0) for key, value in after.items()}

    def of(metric: str, model: str) -> float | None:
        return grown.get((metric, model))

    def mean(metric: str, model: str) -> float | None:
        """Milliseconds a request."""
        return _ratio(of(f"nv_inference_{metric}_duration_us", model), of("nv_inference_request_success", model), 1e-3)

    def compute(model: str) -> float | None:
        return _sum([mean(f"compute_{stage}", model) for stage in _STAGES])

    encoder = steps.encoder
    waste = _ratio(of("tritext_tokens_total", encoder), of("tritext_computed_tokens_total", encoder))
    return ServerSide(
        queue=_sum([mean("queue", model) for model in (steps.tokenizer, encoder, steps.postprocess)]),
        tokenize=compute(steps.tokenizer),
        encode=compute(encoder),
        postprocess=compute(steps.postprocess),
        requests_per_batch=_ratio(of("nv_inference_request_success", encoder), of("nv_inference_exec_count", encoder)),
        texts_per_call=_ratio(of("tritext_texts_total", encoder), of("tritext_encoder_calls_total", encoder)),
        padding_waste=None if waste is None else 1 - waste,
    )


def _ratio(part: float | None, whole: float | None, unit: float = 1.0) -> float | None:
    return unit * part / whole if part is not None and whole else None


def _sum(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None
