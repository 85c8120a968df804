"""What the builder uses of TensorRT's Python API is there in 10.13, by its stubs, and in TensorRT-RTX, which runs here.

The stubs are no valid Python, so that no type checker takes them; they are read as text.
"""

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest

from tritext.engines import tensorrt_builder

# Variables of the builder's code, and the classes of TensorRT that their values have.
CLASSES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "error": "ParserError",
    "added": "IOptimizationProfile",
}
ONLY_RTX = {("", "ComputeCapability")}  # to build for a GPU that is not there
# TensorRT 11 has strongly typed networks only, and none of these flags any more.
REMOVED = re.compile(r"\b(FP16|BF16|INT8|FP8|OBEY_PRECISION_CONSTRAINTS|PREFER_PRECISION_CONSTRAINTS|EXPLICIT_BATCH)\b")


def source() -> str:
    return Path(tensorrt_builder.__file__).read_text(encoding="utf-8")


def used() -> set[tuple[str, str]]:
    """(class, attribute) of all that the code takes from TensorRT; the class "" is the module."""
    found = set()
    for node in ast.walk(ast.parse(source())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if name == "trt":
                found.add(("", node.attr))
            elif name in CLASSES:
                found.add((CLASSES[name], node.attr))
    return found


def stubs() -> str:
    files = metadata.files("tensorrt-stubs") or []
    (path,) = (file for file in files if str(file).endswith("tensorrt_bindings/tensorrt.pyi"))
    return Path(str(path.locate())).read_text(encoding="utf-8")


def test_all_of_it_is_in_the_stubs() -> None:
    text = stubs()
    blocks = dict(re.findall(r"^class (\w+)[^\n]*:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL))
    uses = used()
    assert {name for name, _ in uses} >= {"", "Builder", "IBuilderConfig", "OnnxParser", "IOptimizationProfile"}
    module = set(blocks) | {"__version__"}
    missing = [
        (name, attribute)
        for name, attribute in uses - ONLY_RTX
        if (attribute not in module if not name else not re.search(rf"\b{attribute}\b", blocks[name]))
    ]
    assert not missing


def test_nothing_of_it_is_gone_in_11() -> None:
    assert not REMOVED.search(source())


def test_all_of_it_is_in_the_builder_that_runs_here() -> None:
    rtx = pytest.importorskip("tensorrt_rtx_bindings")
    for name, attribute in used():
        assert hasattr(getattr(rtx, name) if name else rtx, attribute), (name, attribute)
