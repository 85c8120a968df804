"""The spam demo: the checkpoint that demo/spam.py builds, and how training reads an e-mail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from demo import spam
from demo.spam_train import data, train

# None of these is from the corpus.
SPAM = (
    "Make money fast\nEarn $5000 a week from home! No experience needed. Click here to order now.",
    "Lose weight now\nOur herbal pills burn fat while you sleep. Money back guarantee, free shipping!",
    "Dear friend, I am the son of the late minister of mines and need your help to move US$21 million"
    " out of the country. You will receive 25% of the sum. Please keep this strictly confidential.",
    "Mortgage rates are at an all time low! Refinance today, bad credit no problem. Fill in our free form.",
)
HAM = (
    "Re: patch for the parser\nI tried your patch on 2.4 and the tests pass. Could you resend it as a diff"
    " against the current branch?",
    "meeting notes\nHi all, here are the notes of today's meeting. Ann will look at the printer, and I will"
    " ask Bob about the new office. Tell me if I forgot something.",
    "Re: Sunday hike\nThe forecast says rain in the afternoon, so let us start at eight. I can take three"
    " people in the car. Who brings the map?",
    "Question about chapter 3\nI don't understand why the second proof needs the lemma. Isn't it enough that"
    " the set is closed?",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spam.build_checkpoint(tmp_path_factory.mktemp("demo") / "spam")


@pytest.fixture(scope="module")
def classify(checkpoint: Path) -> Callable[[str], str]:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()

    def label_of(text: str) -> str:
        with torch.inference_mode():
            logits = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits
        return str(model.config.id2label[int(logits.argmax())])

    return label_of


@pytest.mark.parametrize("text", SPAM)
def test_calls_spam_spam(classify: Callable[[str], str], text: str) -> None:
    assert classify(text) == "spam"


@pytest.mark.parametrize("text", HAM)
def test_calls_ham_ham(classify: Callable[[str], str], text: str) -> None:
    assert classify(text) == "ham"


def test_demo_texts_hold_both_kinds(classify: Callable[[str], str]) -> None:
    lines = (Path(spam.__file__).parent / "texts" / "spam.txt").read_text("utf-8").splitlines()
    # They take turns, ham first.
    assert [classify(line) for line in lines] == ["ham", "spam"] * 6


def test_shipped_weights_are_small() -> None:
    assert spam.ADAPTER.stat().st_size <= 5_000_000


def test_loads_completely_and_limits_to_512(checkpoint: Path) -> None:
    model, info = AutoModelForSequenceClassification.from_pretrained(checkpoint, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.id2label == {0: "ham", 1: "spam"}
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.model_max_length == 512
    assert len(tokenizer("word " * 1000, truncation=True)["input_ids"]) == 512


def test_tokenizer_neither_pads_nor_cuts_by_itself(checkpoint: Path) -> None:
    stored = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))
    assert stored["truncation"] is None
    assert stored["padding"] is None


def test_merges_low_rank_and_whole_tensors() -> None:
    encoder = {"q.weight": np.ones((2, 3), np.float32), "pooler.bias": np.zeros(2, np.float32)}
    adapter = {
        "bert.q.lora_a": np.array([[1, 2, 3]], np.float16),
        "bert.q.lora_b": np.array([[1], [-1]], np.float16),
        "bert.pooler.bias": np.array([5, 6], np.float16),
    }
    merged = spam.merge(encoder, adapter)
    assert merged["bert.q.weight"].tolist() == [[2, 3, 4], [0, -1, -2]]
    assert merged["bert.pooler.bias"].tolist() == [5, 6]
    assert {tensor.dtype for tensor in merged.values()} == {np.dtype(np.float32)}


def test_same_bytes_and_skipped_when_done(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = spam.build_checkpoint(tmp_path / "again")
    for path in checkpoint.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name
    spam.build_checkpoint(again)
    assert "already complete" in capsys.readouterr().out


def test_reads_subject_and_body_only() -> None:
    raw = (
        b"Received: from host.example.com\nSubject: =?iso-8859-1?Q?Re:_[ILUG]_caf=E9?=\n"
        b"From: a@example.com\nContent-Type: text/plain; charset=iso-8859-1\n"
        b"Content-Transfer-Encoding: quoted-printable\n\nSee   you =E0 midi\n\n"
        b"_______________________________________________\nIlug mailing list\nhttp://example.com\n"
    )
    assert data.subject_and_body(raw) == "Re: café\nSee you à midi"


def test_reads_html_as_text() -> None:
    html = "<html><style>p{}</style><body><p>Buy <b>now</b> &amp; save</p><script>x</script><br>Bye</body>"
    assert data.html_to_text(html).split("\n") == ["", "Buy now & save", "", "Bye"]


def test_prefers_plain_text_and_undoes_base64() -> None:
    raw = (
        b'Subject: two\nContent-Type: multipart/alternative; boundary="b"\n\n'
        b"--b\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n"
        b"--b\nContent-Type: text/html\n\n<html>other</html>\n--b--\n"
    )
    assert data.subject_and_body(raw) == "two\nhello"


def test_groups_what_shares_a_key() -> None:
    assert data.group([["a"], ["b"], ["a", "c"], [], ["c"], ["b"]]) == [0, 1, 0, 2, 0, 1]


def test_training_repeats_bit_by_bit() -> None:
    examples = [train.Example(ids, label) for label, ids in enumerate(train.tokenise([SPAM[0], HAM[0]]))] * 4
    threads = torch.get_num_threads()
    try:
        first, second = (train.train_adapter(examples, train.Recipe(epochs=1, batch_size=4)) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.tobytes() == second[name].tobytes(), name


def test_adapter_has_every_linear_map() -> None:
    adapter = load_file(spam.ADAPTER)
    assert sum(name.endswith(".lora_a") for name in adapter) == 6 * 6
    assert {name for name in adapter if ".lora_" not in name} == {
        f"{module}.{kind}" for module in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")
    }


def test_no_thread_crosses_folds() -> None:
    evaluate = pytest.importorskip("demo.spam_train.evaluate", reason="needs scikit-learn")
    mails = [data.Mail(f"{index}", index // 3 % 2, "", index // 3) for index in range(90)]
    parts = evaluate.split(mails, 5, seed=0)
    assert sorted(index for _, held_out in parts for index in held_out) == list(range(90))
    for training, held_out in parts:
        assert not {mails[i].thread for i in training} & {mails[i].thread for i in held_out}
