"""What `tritext health` says where nothing can be asked; `tests/server/test_health.py` has a server that answers."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tritext.cli import app
from tritext.errors import RepositoryError, ServeError
from tritext.repository import BUILDS, CONFIG
from tritext.serve.remote_http import HttpRemote


def unfit(repository: Path, name: str) -> None:
    """A model whose record is missing."""
    folder = repository / name
    (folder / BUILDS / "0000abcd").mkdir(parents=True)
    (folder / CONFIG).write_text('parameters { key: "build" value { string_value: "0000abcd" } }')


def test_notes_of_models_that_are_not_fit_are_no_output(tmp_path: Path) -> None:
    for name in ("one", "two"):
        unfit(tmp_path, name)
    ran = CliRunner().invoke(app, ["health", str(tmp_path), "--json"])
    assert isinstance(ran.exception, RepositoryError)
    assert ran.stdout == ""
    assert [line.partition(":")[0] for line in ran.stderr.splitlines()] == ["one", "two"]


@pytest.mark.parametrize("url", ["http://localhost:abc", "http://[x", "http://a..b:8000", "http://127.0.0.1:1"])
def test_an_address_that_nobody_can_have_is_said_in_a_sentence(url: str) -> None:
    with pytest.raises(ServeError, match=r"Nobody answers at|is no address"):
        HttpRemote(url, key="", timeout=5.0).calls("spam")
