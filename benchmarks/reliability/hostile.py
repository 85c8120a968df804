"""Requests that nobody should send: of the kinds that parsers fall over, and good ones with some bytes changed."""

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from benchmarks.reliability.requests import packed, request

_NUMBERS: Final = (0, -1, 1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30)
_TYPES: Final = ("BYTES", "INT32", "FP32", "FP16", "BF16", "BOOL", "UINT64", "WAT", "", "bytes")

# Gives the bytes of one HTTP request to a model.
Http = Callable[[Random, str], bytes]


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A POST, its length said unless `headers` say how it comes."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def good(model: str) -> bytes:
    """One text, as curl would send it."""
    return post(f"/v2/models/{model}/generate", b'{"TEXT": "Does this server answer?"}')


def _infer(model: str, tensor: Mapping[str, Any], *headers: str, tail: bytes = b"", **more: Any) -> bytes:
    document = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], **tensor}], **more}
    return post(f"/v2/models/{model}/infer", json.dumps(document).encode() + tail, *headers)


def _deep(random: Random, model: str) -> bytes:
    levels = random.choice([10, 100, 10_000, 100_000, 300_000])
    opening, closing = random.choice([(b"[", b"]"), (b'{"a":', b"}")])
    document = opening * levels + b"1" + closing * random.choice([levels, 0])
    where = random.choice([b'{"TEXT":%s}', b'{"inputs":[{"name":"TEXT","data":%s}]}', b"%s", b'{"parameters":%s}'])
    return post(f"/v2/models/{model}/{random.choice(['generate', 'infer'])}", where % document)


def _chunks(random: Random, model: str) -> bytes:
    count = random.choice([1, 10, 1000, 100_000, 600_000])
    chunk = random.choice(
        [b"1\r\na\r\n", b"1;x=y\r\na\r\n", b"1\r\nab\r\n", b"ffffffff\r\na\r\n", b"-1\r\na\r\n", b"\r\n"]
    )
    body = chunk * count + random.choice([b"0\r\n\r\n", b"", b"0\r\nX: y\r\n\r\n"])
    return post(f"/v2/models/{model}/generate", body, "Transfer-Encoding: chunked")


def _packed_body(random: Random, model: str) -> bytes:
    plain = b" " * random.choice([10, 1 << 20, 1 << 25])
    body = random.choice([gzip.compress(plain, 1), zlib.compress(plain, 1), b"\x1f\x8b" + random.randbytes(50), b""])
    kind = random.choice(["gzip", "deflate", "gzip, gzip", "br", "GZIP"])
    return post(f"/v2/models/{model}/{random.choice(['generate', 'infer'])}", body, f"Content-Encoding: {kind}")


def _headers(random: Random, model: str) -> bytes:
    many = [["X: y"] * 20_000, ["X: " + "a" * (1 << 20)], ["A" * 10_000 + ": b"], [": x"], ["X"], ["X: \x01\x02"]]
    lengths = [[f"Content-Length: {number}"] for number in _NUMBERS] + [["Content-Length: 1", "Content-Length: 2"]]
    both = [["Content-Length: 5", "Transfer-Encoding: chunked"], ["Transfer-Encoding: gzip, chunked"]]
    return post(f"/v2/models/{model}/generate", b'{"TEXT": "a"}', *random.choice(many + lengths + both))


def _header_length(random: Random, model: str) -> bytes:
    said = random.choice([*map(str, _NUMBERS), "abc", "", "1e3", " 7", "0x10"])
    size = random.choice(_NUMBERS)
    raw = struct.pack("<I", random.choice([3, 4, 2**32 - 1, 2**31])) + b"abc"
    tensor = {"parameters": {"binary_data_size": size}}
    return _infer(model, tensor, f"Inference-Header-Content-Length: {said}", tail=raw)


def _binary(random: Random, model: str) -> bytes:
    """The binary extension with a true header length, and tensors that lie."""
    raw = packed(["abc"] * random.choice([0, 1, 2, 300]))
    raw = random.choice([raw, raw[:-1], struct.pack("<I", 2**32 - 1) + raw[4:], random.randbytes(len(raw))])
    shape = [random.choice(_NUMBERS) for _ in range(random.choice([0, 1, 2, 3, 500]))]
    shape = random.choice([shape, [1, 1], [300, 1]])
    tensor = {"name": "TEXT", "datatype": random.choice(_TYPES), "shape": shape}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    return post(f"/v2/models/{model}/infer", head + raw, f"Inference-Header-Content-Length: {len(head)}")


def _tensor(random: Random, model: str) -> bytes:
    odd: list[Any] = [None, "x", 3, 1.5, [], {}, True, [None], [[["a"]]], ["a"] * 1000, "\ud800", [3], *_NUMBERS]
    key = random.choice(["name", "datatype", "shape", "data", "parameters"])
    return _infer(model, {"data": ["a"], key: random.choice(odd)})


def _around(random: Random, model: str) -> bytes:
    """Outputs, parameters and ids of every kind."""
    odd: list[Any] = [None, 3, "x", [], {}, [1], {"a": []}, *_NUMBERS]
    several: list[Any] = [*odd, [{"name": "LABEL"}] * 1000, [{"name": "NO"}]]
    several += [[{"name": "SCORE", "parameters": {"classification": number}}] for number in _NUMBERS]
    region = {"shared_memory_region": "x", "shared_memory_byte_size": random.choice(_NUMBERS)}
    several.append([{"name": "SCORE", "parameters": region}])
    key = random.choice(["outputs", "parameters", "id", "inputs"])
    return _infer(model, {"data": ["a"]}, **{key: random.choice(several)})


def _path(random: Random, model: str) -> bytes:
    name = random.choice([model, "..", "%2e%2e", "a" * 5000, "", f"{model}%00", "../../etc/passwd", "{}"])
    version = random.choice(["", "/versions/-1", "/versions/99999999999999999999", "/versions/x", "/versions/1/../.."])
    end = random.choice(
        ["infer", "generate", "generate_stream", "config", "ready", "stats", "load", "", "trace/setting"]
    )
    method = random.choice(["POST", "GET", "PUT", "HEAD", "OPTIONS", "TRACE", "CONNECT", "post", "\0"])
    return post(f"/v2/models/{name}{version}/{end}", b'{"TEXT": "a"}').replace(b"POST", method.encode(), 1)


def _closed(random: Random, model: str) -> bytes:
    """What the key opens alone."""
    del model
    paths = ["systemsharedmemory/region/x/register", "repository/index", "repository/models/x/load", "logging"]
    paths += ["cudasharedmemory/status", "trace/setting", "systemsharedmemory/unregister"]
    return post(f"/v2/{random.choice(paths)}", b'{"key": "/x", "offset": 0, "byte_size": 9}')


def _noise(random: Random, model: str) -> bytes:
    del model
    starts = [b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n" * 1000]
    return random.choice(starts) + random.randbytes(random.choice([0, 1, 100, 10_000]))


def _changed(random: Random, model: str) -> bytes:
    return changed(random, random.choice([good(model), _infer(model, {"data": ["a"]})]))


def changed(random: Random, data: bytes) -> bytes:
    """`data` with a few bytes changed, taken out, or put in twice."""
    found = bytearray(data)
    for _ in range(random.randint(1, 8)):
        at = random.randrange(len(found) + 1)
        some = random.choice([random.randbytes(1), random.randbytes(8), found[at : at + random.randint(1, 200)] * 2])
        found[at : at + random.choice([0, 1, len(some)])] = some
    return bytes(found[: random.randrange(len(found) + 1)]) if random.random() < 0.1 else bytes(found)


HTTP: Final[Mapping[str, Http]] = {
    "deep JSON": _deep, "chunks": _chunks, "compressed": _packed_body, "headers": _headers, "paths": _path,
    "length of the JSON": _header_length, "binary tensors": _binary, "JSON tensors": _tensor, "around": _around,
    "closed": _closed, "noise": _noise, "changed bytes": _changed,
}  # fmt: skip


def grpc_message(random: Random, model: str, steps: tuple[str, ...]) -> bytes:
    """A ModelInferRequest that is wrong, or no message at all."""
    asked = request(model, ["a"] * random.choice([1, 2, 300]))
    tensor = asked.inputs[0]
    if random.random() < 0.5:
        tensor.shape[:] = [max(-(2**63), min(2**63 - 1, random.choice(_NUMBERS))) for _ in range(random.randint(0, 4))]
    if random.random() < 0.3:
        tensor.datatype = random.choice(_TYPES)
    if random.random() < 0.3:
        asked.raw_input_contents[0] = changed(random, asked.raw_input_contents[0])
    if random.random() < 0.1:
        tensor.contents.bytes_contents.append(b"a")
    if random.random() < 0.1:
        asked.inputs.add().CopyFrom(tensor)
    if random.random() < 0.1:
        tensor.parameters["shared_memory_region"].string_param = "x"
    if random.random() < 0.2:
        asked.model_name = random.choice([*steps, "", "..", "a" * 5000])
        tensor.name, tensor.datatype = random.choice(["input_ids", "logits", "TEXT"]), "INT32"
        asked.raw_input_contents[0] = b"\1\0\0\0" * 600
        tensor.shape[:] = random.choice([[1, 600], [600, 1], [1, 0], [2, 300]])
    data = asked.SerializeToString()
    return changed(random, data) if random.random() < 0.4 else data
