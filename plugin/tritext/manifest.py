"""What was built: the record that lies beside every build of a model.

``REPO/NAME/builds/BUILD/manifest.json`` and, next to it, ``reference.npz``: the checkpoint's own token ids
and logits for a few real texts, so that whoever serves can check the engine on the machine that runs it
without torch.
"""

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tritext import contract
from tritext.errors import RepositoryError
from tritext.stored import check_fields, check_inside, read_json

SCHEMA: Final = 1
MANIFEST: Final = "manifest.json"
REFERENCE: Final = "reference.npz"
CHECK: Final = "check.npz"  # some of the reference, in the encoder step's version folder


@dataclass(frozen=True, slots=True)
class Manifest:
    """One build of one model. Paths are relative to the repository; hashes are SHA-256 in hex.

    `fingerprint` is the hash of all that went in: the same checkpoint, options and versions give the same one.
    """

    name: str
    build: str
    created: str  # ISO 8601, UTC
    tritext: str
    task: str
    labels: tuple[str, ...]
    problem_type: str | None
    max_length: int
    max_batch_size: int
    checkpoint: Mapping[str, Any]  # source (a hub id, or the folder's name), revision, architecture, model_type, files
    engine: Mapping[str, Any]  # name, precision, and the versions that made the artefact
    steps: Mapping[str, str]  # role ("tokenizer", "encoder", "postprocess") -> Triton model name
    files: Mapping[str, str]  # path -> hash
    versions: Mapping[str, str]  # package -> version, at build
    parity: Mapping[str, Any]  # the figures, see build/parity.py
    candidates: Sequence[Mapping[str, Any]] = ()  # what was tried for the encoder, see build/candidates.py
    fingerprint: str = ""
    replaces: str | None = None  # the build that was committed before, which is kept to go back to
    schema: int = field(default=SCHEMA)

    def to_json(self) -> str:
        """The manifest as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest in `folder`; RepositoryError where there is none or it is of another schema."""
        path = folder / MANIFEST
        try:
            values = read_json(path)
        except (OSError, ValueError) as error:
            raise RepositoryError(f"{path} cannot be read ({error}). Build the model again.") from error
        schema = values.get("schema") if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise RepositoryError(
                f"{path} has schema {schema!r}, this tritext reads {SCHEMA}. Build the model again, or use the "
                "version of tritext that built it."
            )
        missing = sorted({f.name for f in fields(cls)} - values.keys())
        if missing:
            raise RepositoryError(f"{path} lacks {', '.join(missing)}. Build the model again.")
        if not isinstance(values["labels"], list):
            raise RepositoryError(f"{path} has labels that are no list. Build the model again.")
        if not isinstance(values["candidates"], list):
            raise RepositoryError(f"{path} has candidates that are no list. Build the model again.")
        values["labels"], values["candidates"] = tuple(values["labels"]), tuple(values["candidates"])
        read = cls(**{f.name: values[f.name] for f in fields(cls)})
        try:
            check_fields(read)
            for file in read.files:
                check_inside(file)
        except (TypeError, ValueError) as error:
            raise RepositoryError(f"{path} cannot be read ({error}). Build the model again.") from error
        return read


@dataclass(frozen=True, slots=True)
class Example:
    """One reference text with the checkpoint's ids [L] (INT32), type ids [L] and logits (FP32, any shape)."""

    text: str
    pair: str | None
    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int32]
    logits: NDArray[np.float32]

    def encoder_arrays(self, inputs: Container[str]) -> dict[str, NDArray[np.int32]]:
        """What the encoder step gets for this text alone, [1, L] each; token types only where `inputs` has them."""
        ids = self.input_ids.astype(np.int32)[None]
        arrays = {contract.INPUT_IDS.name: ids, contract.ATTENTION_MASK.name: np.ones_like(ids)}
        if contract.TOKEN_TYPE_IDS.name in inputs and self.token_type_ids.size:
            arrays[contract.TOKEN_TYPE_IDS.name] = self.token_type_ids.astype(np.int32)[None]
        return arrays


def write_reference(folder: Path, examples: Sequence[Example], file: str = REFERENCE) -> None:
    """Write `examples` to `file` in `folder`. No pickles: texts are stored as JSON in a byte array."""
    texts = json.dumps([[e.text, e.pair] for e in examples]).encode()
    arrays: dict[str, NDArray[Any]] = {"texts": np.frombuffer(texts, dtype=np.uint8)}
    for index, example in enumerate(examples):
        arrays[f"ids.{index}"] = example.input_ids
        arrays[f"types.{index}"] = example.token_type_ids
        arrays[f"logits.{index}"] = example.logits
    np.savez(folder / file, **arrays)


def read_reference(folder: Path, file: str = REFERENCE) -> list[Example]:
    """Read what `write_reference` wrote; RepositoryError where it is missing or damaged."""
    path = folder / file
    try:
        with path.open("rb") as stored, np.load(stored, allow_pickle=False) as arrays:
            texts = json.loads(arrays["texts"].tobytes())
            return [
                Example(text, pair, arrays[f"ids.{i}"], arrays[f"types.{i}"], arrays[f"logits.{i}"])
                for i, (text, pair) in enumerate(texts)
            ]
    except (OSError, ValueError, TypeError, KeyError, EOFError, RecursionError, MemoryError, BadZipFile) as error:
        raise RepositoryError(f"{path} cannot be read ({error}). Build the model again.") from error


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
