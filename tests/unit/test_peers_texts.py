from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.prepare import TEXTS, Texts, texts
from demo.spam import build_checkpoint


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    return texts(build_checkpoint(tmp_path_factory.mktemp("checkpoint") / "spam"))


def test_lengths_are_log_normal_with_the_median_percentile_and_maximum_that_are_stated(made: Texts) -> None:
    assert len(made.texts) == len(made.tokens) == TEXTS
    assert np.median(made.tokens) == pytest.approx(24, abs=1)
    assert np.percentile(made.tokens, 95) == pytest.approx(120, rel=0.05)
    assert max(made.tokens) <= 256


@pytest.mark.parametrize("number", range(5))
def test_any_stretch_is_like_the_whole(made: Texts, number: int) -> None:
    turned = made.turned(number)

    assert sorted(turned.tokens) == sorted(made.tokens)
    assert np.mean(turned.tokens[:60]) == pytest.approx(np.mean(made.tokens), rel=0.15)


def test_a_turn_keeps_each_text_with_its_tokens(made: Texts) -> None:
    turned = made.turned(3)

    assert turned.texts != made.texts
    assert dict(zip(turned.texts, turned.tokens, strict=True)) == dict(zip(made.texts, made.tokens, strict=True))


def test_servers_are_checked_with_both_labels(made: Texts) -> None:
    mails = Path("demo/texts/spam.txt").read_text(encoding="utf-8").splitlines()

    assert set(made.labels) == {"ham", "spam"}
    assert len(set(made.checked) & set(mails)) > len(mails) / 2
