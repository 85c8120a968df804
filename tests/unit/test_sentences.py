"""What a sentence-transformers directory says, under whichever name; sentence-transformers itself is the judge."""

import json
from pathlib import Path

import pytest
from sentence_transformers.sentence_transformer.modules import Transformer

from building import make_checkpoint
from checkpoints import MAX_LENGTH
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.source import locate
from tritext.errors import CheckpointError

KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
FILES = tuple(f"sentence_{kind}_config.json" for kind in KINDS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sentence-transformers directory that says nothing of its transformer; its tokenizer says 40 tokens."""
    made = make_checkpoint(tmp_path / "made", "none")
    said = json.loads((made / "tokenizer_config.json").read_text())
    (made / "tokenizer_config.json").write_text(json.dumps({**said, "model_max_length": 40}))
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for path, kind in kinds.items()]
    (made / "modules.json").write_text(json.dumps(modules))
    (made / "1_Pooling").mkdir()
    (made / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    return made


def say(folder: Path, name: str, **said: object) -> None:
    (folder / name).write_text(json.dumps(said))


def max_length(folder: Path) -> int:
    return inspect(locate(str(folder)), Overrides())[0].max_length


def theirs(folder: Path) -> int | None:
    return Transformer.load(str(folder)).max_seq_length


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("said", [24, 100])
def test_the_length_of_whichever_file_stands_above_the_tokenizers(folder: Path, name: str, said: int) -> None:
    assert max_length(folder) == theirs(folder) == 40
    say(folder, name, max_seq_length=said, do_lower_case=False)
    assert max_length(folder) == theirs(folder) == said


def test_the_first_file_that_says_something_is_read(folder: Path) -> None:
    for number, name in enumerate(FILES):
        say(folder, name, max_seq_length=20 + number)
    assert max_length(folder) == theirs(folder) == 20
    say(folder, FILES[0])
    assert max_length(folder) == theirs(folder) == 21


def test_a_length_is_never_more_than_the_model_has_positions(folder: Path) -> None:
    say(folder, FILES[0], max_seq_length=MAX_LENGTH + 1)
    assert max_length(folder) == MAX_LENGTH


def test_lower_case_is_refused_under_each_name(folder: Path) -> None:
    say(folder, "sentence_distilbert_config.json", do_lower_case=True)
    with pytest.raises(CheckpointError, match="asks for do_lower_case"):
        max_length(folder)
