"""What `docker logs` shows: plain lines that say what is, and one sentence where something is wrong."""

import re
from pathlib import Path

import pytest
from docker_engine import Container, container


def test_the_log_of_a_good_start_is_short_and_plain(server: Container) -> None:
    log = server.logs()
    assert re.search(r"^Ready in [\d.]+ s", log, re.MULTILINE)
    for model in ("labels", "entities"):
        assert re.search(rf"^{model}: \d+ of \d+ reference texts asked", log, re.MULTILINE)
    assert "\x1b" not in log
    assert "Traceback" not in log
    assert "tritext-key" not in log
    assert len(log.splitlines()) < 20, log


def test_a_refused_request_leaves_no_traceback(server: Container) -> None:
    status, answer = server.http("POST", "/v2/models/labels/generate", {"TEXT": "a", "top_k": -1})
    assert status == 400
    assert "top_k" in answer
    assert "Traceback" not in answer + server.logs()


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [(0o755, r"^error: /repository has no model\. `tritext build"), (0o700, r"path '/repository' is not readable")],
)
def test_a_start_that_fails_says_why(image: str, tmp_path: Path, mode: int, sentence: str) -> None:
    folder = tmp_path / "repository"
    folder.mkdir(mode=mode)
    with container(image, repository=folder) as failed:
        assert failed.wait_ended() != 0
        assert re.search(sentence, failed.logs(), re.MULTILINE)
        assert "Traceback" not in failed.logs()
