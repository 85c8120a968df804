"""What runs inside a stage's process loads little: it decides start-up, memory and the size of an image."""

import json
import subprocess
import sys

import pytest

# Prints the third-party packages that a fresh interpreter has loaded after importing the modules named.
PROBE = """
import importlib, json, sys, sysconfig, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(roots - set(sys.stdlib_module_names) - {"tritext"})))
"""
# What numpy and Python themselves bring along.
OWN = {"numpy", "cython_runtime", "sitecustomize", "_distutils_hack"}


def loaded(*modules: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *modules], capture_output=True, text=True, check=True, timeout=120
    )
    return {name for name in json.loads(done.stdout) if not name.startswith(("__editable__", "_cython_"))}


@pytest.mark.parametrize("stage", ["tokenizer", "postprocess"])
def test_a_text_stage_loads_numpy_and_tokenizers_alone(stage: str) -> None:
    assert loaded(f"tritext.stages.{stage}", "tritext.stages.adapter") <= OWN | {"tokenizers"}


def test_the_postprocess_stage_does_without_tokenizers() -> None:
    assert loaded("tritext.stages.postprocess", "tritext.stages.adapter") <= OWN


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_encoder_stage_loads_neither_torch_nor_grpc(engine: str) -> None:
    there = loaded("tritext.stages.encoder", "tritext.stages.adapter", engine)
    assert engine in there
    assert not there & {"torch", "transformers", "grpc", "tritonclient", "google", "huggingface_hub", "tokenizers"}


def test_the_encoder_stage_loads_no_engine_before_it_is_known_which() -> None:
    assert loaded("tritext.stages.encoder", "tritext.stages.adapter") <= OWN


@pytest.mark.parametrize("module", ["tritext", "tritext.cli", "tritext.serve", "tritext.repository"])
def test_what_serves_and_asks_does_without_torch(module: str) -> None:
    assert not loaded(module) & {"torch", "transformers", "onnx", "openvino", "onnxruntime"}


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"grpc", "google"} <= loaded("tritext.repository")
