"""Defaults of request parameters that would have every request refused are themselves refused, before any work."""

import json
from pathlib import Path

import pytest

from building import make_checkpoint
from tritext.build import BuildOptions, defaults
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.source import locate
from tritext.errors import BuildError, CheckpointError

LENGTH = 128  # of these checkpoints


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("heads")
    return {head: make_checkpoint(root / head, head) for head in ("single", "spans", "masked", "none", "one")}


def check(folder: Path, said: dict[str, str], **overrides: object) -> None:
    options = BuildOptions("it", Path(), overrides=Overrides(**overrides), defaults=said)  # type: ignore[arg-type]
    facts, tokenizer = inspect(locate(str(folder)), options.overrides)
    defaults.check(facts, tokenizer, options)


@pytest.mark.parametrize(
    ("head", "said", "sentence"),
    [
        ("spans", {"max_seq_len": "1024"}, "Parameter max_seq_len is 1024; this model takes 128 tokens."),
        ("spans", {"doc_stride": "400"}, "Parameter doc_stride is 400; it must be less than max_seq_len"),
        ("spans", {"doc_stride": "127"}, "The stride of 127 tokens is too large"),
        ("single", {"truncation": "window", "stride": "600"}, "The stride of 600 tokens is too large"),
        ("none", {"prompt_name": "query"}, "Parameter prompt_name is 'query', which is no prompt of this model."),
        ("masked", {"targets": ""}, "Parameter targets is ''; it must be one or more names separated by commas"),
        ("masked", {"targets": "[]"}, "Parameter targets is '[]'; it must be one or more names separated by commas"),
    ],
)
def test_what_no_request_could_do_with(
    folders: dict[str, Path], head: str, said: dict[str, str], sentence: str
) -> None:
    with pytest.raises(BuildError) as caught:
        check(folders[head], said, pooling="mean" if head == "none" else None)
    assert str(caught.value).startswith(f"A --default cannot be. {sentence}")


@pytest.mark.parametrize(
    ("head", "said", "task"),
    [
        ("single", {}, None),
        ("single", {"truncation": "error"}, None),
        ("single", {"truncation": "window", "stride": "40", "truncation_strategy": "only_second"}, None),
        ("spans", {"doc_stride": "60", "max_seq_len": "100"}, None),
        ("masked", {"top_k": "3", "targets": "the,und"}, None),
        ("none", {"prompt": "query: "}, None),
        ("one", {"top_k": "all", "truncation_strategy": "only_first"}, "reranking"),
    ],
)
def test_what_requests_can_do_with(folders: dict[str, Path], head: str, said: dict[str, str], task: str | None) -> None:
    check(folders[head], said, pooling="mean" if head == "none" else None, task=task)


def test_a_model_that_has_room_for_nothing_is_not_blamed_on_a_default(folders: dict[str, Path]) -> None:
    check(folders["spans"], {"top_k": "2"}, max_length=8)


@pytest.fixture
def promptless(tmp_path: Path) -> Path:
    """A checkpoint that asks for a prompt that it does not have."""
    made = make_checkpoint(tmp_path / "made", "none")
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    (made / "modules.json").write_text(
        json.dumps([{"type": f"a.{kind}", "path": path} for path, kind in kinds.items()])
    )
    (made / "config_sentence_transformers.json").write_text('{"prompts": {"a": "b"}, "default_prompt_name": "query"}')
    return made


@pytest.mark.parametrize("said", [{}, {"normalize": "true"}, {"truncation": "left"}])
def test_a_default_of_the_checkpoints_own_is_not_blamed_on_those_that_were_given(
    promptless: Path, said: dict[str, str]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        check(promptless, said)
    sentence = f"A default that {promptless} asks for cannot be. Parameter prompt_name is 'query'"
    assert str(caught.value).startswith(sentence)


def test_a_default_that_is_given_is_the_cure_of_the_checkpoints_own(promptless: Path) -> None:
    check(promptless, {"prompt_name": "a"})
    with pytest.raises(BuildError, match=r"^A --default cannot be\. Parameter normalize is 'maybe'"):
        check(promptless, {"normalize": "maybe"})
