"""A tiny model repository, laid out as tritext.repository says, with trivial Python steps and no engine.

The toy tokenizer makes one id of each code point; the toy encoder answers (sum of ids, -sum); the toy
postprocess says POSITIVE or NEGATIVE. So every answer can be worked out by hand. Each ``~`` in a text makes
the encoder sleep for a tenth of a second.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.manifest import MANIFEST, Example, Manifest, sha256, write_reference
from tritext.naming import ROLES, step_name
from tritext.repository import BUILDS, CONFIG, VERSION, BuiltModel

TEXTS = (
    "Hi",
    "A short text.",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.",
    "日本語のテキスト",
    "x" * 300,
)

TOKENIZER = """
    import numpy as np
    import triton_python_backend_utils as pb

    from tritext import contract  # the stub must find the package


    class TritonPythonModel:
        def execute(self, requests):
            return [self.answer(request) for request in requests]

        def answer(self, request):
            texts = pb.get_input_tensor_by_name(request, contract.TEXT.name).as_numpy().reshape(-1)
            rows = [[ord(c) for c in text.decode()] or [0] for text in texts]
            shape = (len(rows), max(map(len, rows)))
            ids, mask = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
            for index, row in enumerate(rows):
                ids[index, : len(row)] = row
                mask[index, : len(row)] = 1
            return pb.InferenceResponse([pb.Tensor("input_ids", ids), pb.Tensor("attention_mask", mask)])
"""

ENCODER = """
    import re
    import time

    import numpy as np
    import triton_python_backend_utils as pb


    class TritonPythonModel:
        def execute(self, requests):
            return [self.answer(request) for request in requests]

        def answer(self, request):
            ids = pb.get_input_tensor_by_name(request, "input_ids").as_numpy()
            mask = pb.get_input_tensor_by_name(request, "attention_mask").as_numpy()
            tildes = int((ids == ord("~")).sum())
            {tildes}
            total = (ids * mask).sum(axis=1).astype(np.float32) / 1000 + {bias}
            return pb.InferenceResponse([pb.Tensor("logits", np.stack([total, -total], axis=1))])
"""

POSTPROCESS = """
    import numpy as np
    import triton_python_backend_utils as pb


    class TritonPythonModel:
        def execute(self, requests):
            return [self.answer(request) for request in requests]

        def answer(self, request):
            logits = pb.get_input_tensor_by_name(request, "logits").as_numpy()
            best = logits.argmax(axis=1)[:, None]
            label = np.where(best == 0, b"POSITIVE", b"NEGATIVE").astype(object)
            score = np.take_along_axis(logits, best, axis=1)
            return pb.InferenceResponse([pb.Tensor("LABEL", label), pb.Tensor("SCORE", score)])
"""

CONFIGS = {
    "tokenizer": """
        input { name: "TEXT" data_type: TYPE_STRING dims: 1 }
        output { name: "input_ids" data_type: TYPE_INT32 dims: -1 }
        output { name: "attention_mask" data_type: TYPE_INT32 dims: -1 }
    """,
    "encoder": """
        input { name: "input_ids" data_type: TYPE_INT32 dims: -1 }
        input { name: "attention_mask" data_type: TYPE_INT32 dims: -1 }
        output { name: "logits" data_type: TYPE_FP32 dims: 2 }
    """,
    "postprocess": """
        input { name: "logits" data_type: TYPE_FP32 dims: 2 }
        output { name: "LABEL" data_type: TYPE_STRING dims: -1 }
        output { name: "SCORE" data_type: TYPE_FP32 dims: -1 }
    """,
}

WIRING = {
    "tokenizer": (("TEXT", "TEXT"), ("input_ids", "input_ids"), ("attention_mask", "attention_mask")),
    "encoder": (("input_ids", "input_ids"), ("attention_mask", "attention_mask"), ("logits", "logits")),
    "postprocess": (("logits", "logits"), ("LABEL", "LABEL"), ("SCORE", "SCORE")),
}


def encoder(bias: float = 0.0, tildes: str = "pass") -> str:
    """The encoder's model.py."""
    return ENCODER.replace("{bias}", str(bias)).replace("{tildes}", tildes)


def ids(text: str) -> NDArray[np.int32]:
    """What the toy tokenizer makes of `text`."""
    return np.array([ord(c) for c in text], np.int32)


def logits(text: str) -> NDArray[np.float32]:
    """What the toy encoder makes of `text`."""
    total = np.float32(ids(text).sum()) / np.float32(1000)
    return np.array([total, -total], np.float32)


def write(
    repository: Path,
    name: str = "toy",
    *,
    build: str = "0000abcd",
    bias: float = 0.0,
    tildes: str = "time.sleep(tildes / 10)",
    code: dict[str, str] | None = None,
    texts: Sequence[str] = TEXTS,
) -> BuiltModel:
    """Write the model `name`. `bias` is added to the encoder's sums, `tildes` is what it does about the ``~`` in a
    request, `code` replaces a role's model.py.
    """
    sources = {"tokenizer": TOKENIZER, "encoder": encoder(bias, tildes), "postprocess": POSTPROCESS}
    for role in ROLES:
        folder = repository / step_name(name, role, build)
        (folder / VERSION).mkdir(parents=True)
        head = f'name: "{folder.name}" backend: "python" max_batch_size: 8\n'
        (folder / CONFIG).write_text(head + dedent(CONFIGS[role]), encoding="utf-8")
        source = (code or {}).get(role, sources[role])
        (folder / VERSION / "model.py").write_text(dedent(source), encoding="utf-8")
    model = BuiltModel(repository, name, build)
    _write_ensemble(model)
    _write_record(model, texts)
    return model


def _write_ensemble(model: BuiltModel) -> None:
    steps = []
    for role in ROLES:
        inputs = set(CONFIGS[role].split("output")[0].split('"')[1::2])
        maps = "".join(
            f'{"input_map" if key in inputs else "output_map"} {{ key: "{key}" value: "{value}" }}\n'
            for key, value in WIRING[role]
        )
        name = step_name(model.name, role, model.build)
        steps.append(f'step {{ model_name: "{name}" model_version: -1\n{maps}}}')
    folder = model.repository / model.name
    (folder / VERSION).mkdir(parents=True, exist_ok=True)
    config = (
        f'name: "{model.name}" platform: "ensemble" max_batch_size: 8\n'
        'input { name: "TEXT" data_type: TYPE_STRING dims: 1 }\n'
        'output { name: "LABEL" data_type: TYPE_STRING dims: -1 }\n'
        'output { name: "SCORE" data_type: TYPE_FP32 dims: -1 }\n'
        f"ensemble_scheduling {{\n{chr(10).join(steps)}\n}}\n"
        f'parameters {{ key: "{contract.PARAM_BUILD}" value {{ string_value: "{model.build}" }} }}\n'
    )
    record = folder / BUILDS / model.build
    record.mkdir(parents=True, exist_ok=True)
    for place in (record, folder):
        (place / CONFIG).write_text(config, encoding="utf-8")


def _write_record(model: BuiltModel, texts: Sequence[str]) -> None:
    folder = model.folder
    write_reference(folder, [Example(t, None, ids(t), np.zeros_like(ids(t)), logits(t)) for t in texts])
    manifest = Manifest(
        name=model.name,
        build=model.build,
        created="2025-01-01T00:00:00Z",
        tritext="0",
        task=contract.TEXT_CLASSIFICATION,
        labels=("POSITIVE", "NEGATIVE"),
        problem_type=None,
        max_length=512,
        max_batch_size=8,
        checkpoint={},
        engine={"name": "toy", "precision": "fp32"},
        steps={role: step_name(model.name, role, model.build) for role in ROLES},
        files=_hashes(model),
        versions={},
        parity={"tolerance": {"logits": 1e-4}},
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _hashes(model: BuiltModel) -> dict[str, str]:
    """Of every file of the steps and the record, but the manifest."""
    folders = [model.folder, *(model.repository / step_name(model.name, role, model.build) for role in ROLES)]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(model.repository)): sha256(path) for path in files}
