"""The record of a build: written, read back, and refused where it is not what it should be."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritext.errors import RepositoryError
from tritext.manifest import MANIFEST, REFERENCE, SCHEMA, Example, Manifest, read_reference, sha256, write_reference

MADE = Manifest(
    name="spam",
    build="0123abcd",
    created="2026-01-02T03:04:05+00:00",
    tritext="0.1.0",
    task="text-classification",
    labels=("ham", "späm"),
    problem_type=None,
    max_length=128,
    max_batch_size=16,
    checkpoint={"source": "x", "revision": None},
    engine={"name": "openvino"},
    steps={"tokenizer": "spam_tokenizer_0123abcd"},
    files={"spam/builds/0123abcd/config.pbtxt": "00"},
    versions={"torch": "2"},
    parity={"texts": 3},
    candidates=({"engine": "openvino", "precision": "fp32", "chosen": True},),
    fingerprint="ff",
    replaces="89abcdef",
)


def written(folder: Path, **changes: Any) -> Path:
    values = json.loads(MADE.to_json()) | changes
    (folder / MANIFEST).write_text(json.dumps(values), encoding="utf-8")
    return folder


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(MADE.to_json(), encoding="utf-8")
    assert Manifest.read(tmp_path) == MADE


def test_a_field_that_is_not_known_is_left_out(tmp_path: Path) -> None:
    assert Manifest.read(written(tmp_path, more=1)) == MADE


@pytest.mark.parametrize("schema", [None, 0, SCHEMA + 1, str(SCHEMA)])
def test_another_schema_is_refused_by_number(tmp_path: Path, schema: object) -> None:
    with pytest.raises(RepositoryError, match=f"has schema {schema!r}, this tritext reads {SCHEMA}"):
        Manifest.read(written(tmp_path, schema=schema))


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00", '{"schema": 1}'])
def test_damage(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(RepositoryError, match="Build the model again"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("field", ["labels", "candidates"])
def test_a_list_that_is_none(tmp_path: Path, field: str) -> None:
    with pytest.raises(RepositoryError, match=f"{field} that are no list"):
        Manifest.read(written(tmp_path, **{field: 3}))


def test_none_there(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match=r"manifest\.json cannot be read"):
        Manifest.read(tmp_path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    values = json.loads(MADE.to_json())
    del values["parity"]
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(RepositoryError, match="lacks parity"):
        Manifest.read(tmp_path)


EXAMPLES = [
    Example("a é 🙂 \x00", None, np.arange(3, dtype=np.int32), np.zeros(3, np.int32), np.ones(2, np.float32)),
    Example("\ud800"[:0], "second", np.arange(2, dtype=np.int32), np.ones(2, np.int32), np.ones((2, 4), np.float32)),
]


def test_reference_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_reference(tmp_path, EXAMPLES)
    for got, want in zip(read_reference(tmp_path), EXAMPLES, strict=True):
        assert (got.text, got.pair) == (want.text, want.pair)
        for name in ("input_ids", "token_type_ids", "logits"):
            assert getattr(got, name).dtype == getattr(want, name).dtype
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))


def test_a_pickle_in_the_reference_is_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / REFERENCE, texts=np.array([object()], dtype=np.object_))
    with pytest.raises(RepositoryError, match="cannot be read"):
        read_reference(tmp_path)


@pytest.mark.parametrize("size", [0, 10, 700, -10])
def test_a_truncated_reference(tmp_path: Path, size: int) -> None:
    write_reference(tmp_path, EXAMPLES)
    path = tmp_path / REFERENCE
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RepositoryError, match=r"reference\.npz cannot be read"):
        read_reference(tmp_path)


def test_a_reference_that_lacks_an_array(tmp_path: Path) -> None:
    np.savez(tmp_path / REFERENCE, texts=np.frombuffer(b'[["a", null]]', dtype=np.uint8))
    with pytest.raises(RepositoryError, match="cannot be read"):
        read_reference(tmp_path)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x").startswith("ba7816bf8f01cfea")


def test_a_manifest_is_a_value() -> None:
    assert replace(MADE, build="x") != MADE
