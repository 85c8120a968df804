"""A start on a repository in which what is committed is wrong: an earlier build answers, and others are not harmed."""

import json
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import toy
from test_serve import ask_grpc
from test_serve_command import FAILING, Start, finish, ready, start

from building import record_anew
from tritext.repository import BUILDS, CONFIG, BuiltModel

__all__ = ["start"]  # a fixture

GOOD, BAD = "0000900d", "00000bad"


def replaced(repository: Path, **how: Any) -> BuiltModel:
    """`toy` with a good build, and a later one, made as `how` says, in its place."""
    toy.write(repository, build=GOOD)
    model = toy.write(repository, build=BAD, **how)
    path = model.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"replaces": GOOD, "created": "2026-01-01"}))
    return model


def says(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own server
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def log_of(process: Any) -> str:
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process, within=30)
    assert code == 0
    return str(err)


def cut_off(model: BuiltModel) -> None:
    (model.step("encoder") / "model.py").write_text("")


def forget(model: BuiltModel) -> None:
    shutil.rmtree(model.step("postprocess"))


def lose_record(model: BuiltModel) -> None:
    (model.folder / "manifest.json").unlink()


CASES: dict[str, tuple[Callable[[BuiltModel], None] | None, dict[str, Any], str]] = {
    "a file is changed": (cut_off, {}, "toy_encoder_00000bad/1/model.py"),
    "a step is missing": (forget, {}, "toy_postprocess_00000bad"),
    "its record is missing": (lose_record, {}, "manifest.json cannot be read"),
    "it does not load": (None, {"code": {"encoder": FAILING}}, "the engine file is missing"),
    "it answers with an error": (None, {"code": {"encoder": toy.encoder(tildes="raise ValueError('no op')")}}, "no op"),
    "it answers wrongly": (None, {"bias": 0.25}, "its logits differ by 0.25"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_build_before_answers_in_the_place_of_a_bad_one(tmp_path: Path, start: Start, case: str) -> None:
    spoil, how, reason = CASES[case]
    toy.write(tmp_path / "repo", "other")
    bad = replaced(tmp_path / "repo", **how)
    if spoil:
        spoil(bad)
    process = start(tmp_path / "repo", "--json", "--no-watch")
    endpoints = ready(process)
    assert ask_grpc(endpoints["grpc"], "Hi") == ask_grpc(endpoints["grpc"], "Hi", "other") == "POSITIVE"
    code, said = says(f"{endpoints['ready']}/toy")
    assert (code, said["build"], said["ready"]) == (200, GOOD, True)
    assert said["refused_build"] == BAD
    assert reason in said["refused"]
    assert says(endpoints["ready"])[0] == 200
    lines = [line for line in log_of(process).splitlines() if f"Build {GOOD} answers in its place." in line]
    assert len(lines) == 1
    assert reason in lines[0]


def test_the_newest_build_answers_where_it_cannot_be_told_which_is_committed(tmp_path: Path, start: Start) -> None:
    replaced(tmp_path / "repo")
    (tmp_path / "repo" / "toy" / CONFIG).write_text("nonsense")
    process = start(tmp_path / "repo", "--json")
    endpoints = ready(process)
    said = says(f"{endpoints['ready']}/toy")[1]
    assert (said["build"], said["refused_build"], said["ready"]) == (BAD, None, True)
    assert "cannot be read as a Triton model configuration" in said["refused"]


@pytest.mark.parametrize("how", [{"code": {"encoder": FAILING}}, {"bias": 0.25}])
def test_a_model_without_a_good_build_is_missed_and_the_others_answer(
    tmp_path: Path, start: Start, how: dict[str, Any]
) -> None:
    repository = tmp_path / "repo"
    toy.write(repository, "other")
    toy.write(repository, build=BAD, **how)
    process = start(repository, "--json")
    endpoints = ready(process)
    assert endpoints["models"] == ["other"]
    assert ask_grpc(endpoints["grpc"], "Hi", "other") == "POSITIVE"
    assert says(f"{endpoints['ready']}/other")[0] == 200
    for url in (endpoints["ready"], f"{endpoints['ready']}/toy"):
        assert says(url)[0] == 503
    said = says(f"{endpoints['ready']}/toy")[1]
    assert (said["build"], said["refused_build"], said["ready"]) == (None, BAD, False)
    # A good build is taken as soon as it is committed.
    toy.write(repository, build=GOOD)
    deadline = time.monotonic() + 60
    while says(endpoints["ready"])[0] != 200:
        assert time.monotonic() < deadline, says(endpoints["ready"])
        time.sleep(0.1)
    assert ask_grpc(endpoints["grpc"], "Hi") == "POSITIVE"
    assert "Nothing answers in its place." in log_of(process)


def test_what_was_gone_back_from_does_not_come_back(tmp_path: Path, start: Start) -> None:
    replaced(tmp_path / "repo")
    old = BuiltModel(tmp_path / "repo", "toy", GOOD)
    shutil.copy(old.folder / CONFIG, tmp_path / "repo" / "toy" / CONFIG)
    cut_off(old)
    code, _, err = finish(start(tmp_path / "repo"))
    assert code == 1
    assert "toy is not as it was built" in err


def test_where_no_build_is_good_it_ends_and_says_what_was_tried(tmp_path: Path, start: Start) -> None:
    bad = replaced(tmp_path / "repo", bias=0.25)
    worse = BuiltModel(bad.repository, bad.name, GOOD)
    (worse.step("encoder") / "model.py").write_text(dedent(toy.encoder(bias=0.5)))
    record_anew(worse)
    assert (bad.repository / "toy" / BUILDS / GOOD).is_dir()
    code, out, err = finish(start(tmp_path / "repo"), within=30)
    assert (code, out) == (1, "")
    assert "differ by 0.25" in err
    assert "differ by 0.5" in err
