"""The memory of a real model's steps: what a bare toy cannot show, its vocabulary and its weights included."""

from pathlib import Path

from benchmarks.startup import one_run
from demo import spam
from tritext.build import BuildOptions, build
from tritext.build.source import locate


def test_tokenizer_and_postprocess_stay_small_with_a_bert_vocabulary(tmp_path: Path) -> None:
    checkpoint = spam.build_checkpoint(tmp_path / "checkpoint")
    build(locate(str(checkpoint)), BuildOptions("spam", tmp_path / "repository", "openvino", "fp32"))
    _, megabytes = one_run(tmp_path / "repository", "spam")
    assert megabytes["tokenizer"] < 60
    assert megabytes["postprocess"] < 60
    assert megabytes["encoder"] > 90, "its weights alone are 91 MB: is the right process measured?"
