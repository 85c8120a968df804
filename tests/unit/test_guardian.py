"""How Triton stands back for its fences, on every kernel and in every container."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tritext.serve.guardian import group_nice

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("file", "nice"),
    [
        pytest.param("/autogroup-25 nice 5\n", 5, id="a session of its own"),
        pytest.param("/autogroup-25 nice -11\n", -11, id="a session that goes first"),
        pytest.param("", 0, id="never left the first session, as what a container starts first"),
    ],
)
def test_the_niceness_of_a_session(tmp_path: Path, file: str, nice: int) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "autogroup").write_text(file)
    assert group_nice(7, tmp_path) == nice
