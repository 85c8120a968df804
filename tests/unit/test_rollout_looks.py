"""What a look at the repository makes of a commit that was refused: once refused, and tried again once committed again.

Triton is made up here; `tests/server/test_rollout.py` has a real one.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tritext.errors import ServeError
from tritext.repository import BUILDS, CONFIG, BuiltModel
from tritext.serve.rollout import Rollouts
from tritext.serve.selection import Refusal
from tritext.serve.status import Status

BUILD = "b7c3a1a8"
WORDS = f'parameters {{ key: "build" value {{ string_value: "{BUILD}" }} }}'


class Looking:
    """A server that serves nothing, follows `repository`, and refuses the build there while `fault` says why."""

    def __init__(self, repository: Path, monkeypatch: pytest.MonkeyPatch, *refusals: Refusal) -> None:
        self.status, self.tried, self.fault, self.held = Status(), 0, "out of memory", 0
        self.during: Callable[[], None] = lambda: None  # what happens while it is tried
        remote = SimpleNamespace(alive=lambda **_: True, start_unload=lambda _: None)
        server: Any = SimpleNamespace(
            repository=repository, models=[], segments="", is_away=False, remote=remote, expecting_errors=nullcontext,
            replace=lambda _, new: server.models.append(new), hold=self._hold,
        )  # fmt: skip
        supervisor: Any = SimpleNamespace(status=self.status, adopt=lambda m: self.status.serve(m.name, m.build))
        self.rollouts = Rollouts(server, supervisor, lambda _: None, refusals=refusals)
        monkeypatch.setattr(BuiltModel, "damage", lambda _: [])
        monkeypatch.setattr(self.rollouts, "_load_and_check", self._check)
        monkeypatch.setattr(self.rollouts, "_switch", lambda *_: None)

    def _check(self, _: BuiltModel) -> None:
        self.tried += 1
        self.during()
        if self.fault:
            raise ServeError(self.fault)

    def _hold(self) -> None:
        self.held += 1

    def look(self) -> dict[str, Any]:
        """Look once; what /ready says of the model then."""
        self.rollouts._look()
        return dict(self.status.document()["models"]["spam"])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """That of the model "spam", committed."""
    (tmp_path / "spam" / BUILDS).mkdir(parents=True)
    commit(tmp_path / "spam" / CONFIG)
    return tmp_path / "spam" / CONFIG


def commit(config: Path) -> int:
    """As `rollback` does it; the time that tells it from others."""
    staged = config.with_suffix(".staged")
    staged.write_text(WORDS)
    staged.replace(config)
    return config.stat().st_mtime_ns


@pytest.fixture
def looking(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> Looking:
    return Looking(tmp_path, monkeypatch)


def test_each_look_holds_what_is_served_whose_record_may_have_been_written_anew(looking: Looking) -> None:
    for number in (1, 2):
        looking.look()
        assert looking.held == number


def test_a_refused_commit_is_tried_once_and_named(looking: Looking, config: Path) -> None:
    said = looking.look()
    assert (said["refused_build"], said["refused"], said["refused_commit"]) == (BUILD, "out of memory", None)
    for _ in range(2):
        assert looking.look()["refused_commit"] == config.stat().st_mtime_ns
    assert looking.tried == 1


def test_the_same_build_is_tried_again_when_it_is_committed_again(looking: Looking, config: Path) -> None:
    looking.look()
    looking.look()
    again = commit(config)
    assert looking.look()["refused_commit"] is None  # tried, and refused again: the next look knows of which commit
    assert (looking.look()["refused_commit"], looking.tried) == (again, 2)
    commit(config)
    looking.fault = ""
    said = looking.look()
    assert (said["build"], said["ready"], said["refused_build"], said["refused_commit"]) == (BUILD, True, None, None)


def test_a_file_number_that_is_used_again_makes_no_commit_the_same(looking: Looking, config: Path) -> None:
    looking.look()
    before = config.stat()
    config.write_text(WORDS)  # in place, as cp does
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert config.stat().st_ino == before.st_ino
    looking.look()
    assert looking.tried == 2


def test_a_commit_that_comes_while_one_is_tried_is_tried_too(looking: Looking, config: Path) -> None:
    def put_right() -> None:
        commit(config)
        looking.during = lambda: None

    looking.during = put_right
    looking.look()
    looking.fault = ""
    assert looking.look()["build"] == BUILD
    assert looking.tried == 2


def test_what_was_refused_at_the_start_is_named_too(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = Looking(tmp_path, monkeypatch, Refusal("spam", BUILD, "out of memory", is_final=True))
    looking.status.refuse("spam", BUILD, "out of memory", is_expected=True)
    assert looking.look()["refused_commit"] == config.stat().st_mtime_ns
    assert looking.tried == 0
