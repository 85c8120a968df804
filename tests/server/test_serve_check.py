"""The engine check, against an encoder that is a function: no Triton runs here."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
from numpy.typing import NDArray

from tritext.errors import RepositoryError, ServeError
from tritext.manifest import MANIFEST, Example, write_reference
from tritext.naming import step_name
from tritext.repository import CONFIG, BuiltModel
from tritext.serve.check import AT_LEAST, check_engine
from tritext.serve.remote import Arrays


@pytest.fixture
def model(tmp_path: Path) -> BuiltModel:
    return toy.write(tmp_path)


class Encoder:
    """Answers as the toy encoder does, `wrong` added; keeps what it was asked."""

    def __init__(self, wrong: float = 0.0, seconds: float = 0.0) -> None:
        self.asked: list[tuple[str, Arrays]] = []
        self._wrong = np.float32(wrong)
        self._seconds = seconds

    def __call__(self, name: str, arrays: Arrays) -> Arrays:
        self.asked.append((name, arrays))
        time.sleep(self._seconds)
        text = "".join(map(chr, arrays["input_ids"][0]))
        return {"logits": toy.logits(text)[None] + self._wrong}


def test_every_reference_text_is_asked_the_shortest_first(model: BuiltModel) -> None:
    encoder = Encoder()
    found = check_engine(model, encoder)
    assert (found.model, found.texts, found.of, found.difference, found.tolerance) == ("toy", 5, 5, 0.0, 1e-4)
    assert {name for name, _ in encoder.asked} == {"toy_encoder_0000abcd"}
    lengths = [arrays["input_ids"].shape[1] for _, arrays in encoder.asked]
    assert lengths == sorted(map(len, toy.TEXTS))


def test_the_encoder_gets_what_its_configuration_lists(model: BuiltModel) -> None:
    encoder = Encoder()
    check_engine(model, encoder)
    for _, arrays in encoder.asked:
        assert set(arrays) == {"input_ids", "attention_mask"}
        assert {array.dtype for array in arrays.values()} == {np.dtype(np.int32)}
        assert arrays["attention_mask"].shape == arrays["input_ids"].shape
        assert arrays["attention_mask"].all()


def test_type_ids_go_along_where_the_encoder_takes_them(model: BuiltModel) -> None:
    config = model.repository / step_name("toy", "encoder", model.build) / CONFIG
    config.write_text(config.read_text() + 'input { name: "token_type_ids" data_type: TYPE_INT32 dims: -1 }')
    types = np.array([0, 1], np.int32)
    write_reference(model.folder, [Example("Hi", "there", toy.ids("Hi"), types, toy.logits("Hi"))])
    encoder = Encoder()
    check_engine(model, encoder)
    np.testing.assert_array_equal(encoder.asked[0][1]["token_type_ids"], types[None])


def test_it_stops_at_its_budget_but_asks_a_few(model: BuiltModel) -> None:
    slow = Encoder(seconds=0.02)
    assert check_engine(model, slow, budget=0).texts == len(slow.asked) == AT_LEAST
    assert check_engine(model, Encoder(seconds=0.02), budget=5).texts == 5


def test_a_difference_within_the_tolerance_is_reported(model: BuiltModel) -> None:
    assert check_engine(model, Encoder(wrong=5e-5)).difference == pytest.approx(5e-5, rel=0.1)


def test_a_mismatch_names_model_text_difference_and_tolerance(model: BuiltModel) -> None:
    with pytest.raises(ServeError) as error:
        check_engine(model, Encoder(wrong=0.25))
    assert str(error.value) == (
        "Model toy (build 0000abcd, toy fp32) is wrong on this machine: for the text 'Hi' its logits differ by 0.25 "
        "from the checkpoint's, and the tolerance is 0.0001. Build it again on this machine, or with another engine "
        "or precision."
    )


def test_only_the_wrong_text_is_shown_and_not_all_of_it(model: BuiltModel) -> None:
    def wrong_when_long(name: str, arrays: Arrays) -> Arrays:
        return Encoder(wrong=1.0 if arrays["input_ids"].shape[1] == 300 else 0.0)(name, arrays)

    with pytest.raises(ServeError, match=f"'{'x' * 59}…'"):
        check_engine(model, wrong_when_long)


def test_a_logit_that_is_no_number_is_a_mismatch(model: BuiltModel) -> None:
    with pytest.raises(ServeError, match="differ by nan"):
        check_engine(model, Encoder(wrong=float("nan")))


@pytest.mark.parametrize("logits", [np.zeros((1, 3), np.float32), np.zeros((1, 2, 2), np.float32), None])
def test_logits_of_another_shape_are_a_mismatch(model: BuiltModel, logits: NDArray[np.float32] | None) -> None:
    with pytest.raises(ServeError, match=r"have shape .* where the checkpoint's have \(2,\)"):
        check_engine(model, lambda _name, _arrays: {} if logits is None else {"logits": logits})


def test_logits_of_every_token_are_compared(model: BuiltModel) -> None:
    logits = np.arange(4, dtype=np.float32).reshape(2, 2)  # [L, C]
    write_reference(model.folder, [Example("Hi", None, toy.ids("Hi"), np.zeros(0, np.int32), logits)])
    assert check_engine(model, lambda _name, _arrays: {"logits": logits[None]}).texts == 1
    with pytest.raises(ServeError, match="differ by 3"):
        check_engine(model, lambda _name, _arrays: {"logits": logits[None, ::-1, ::-1]})


def test_a_manifest_without_a_tolerance_is_refused(model: BuiltModel) -> None:
    (model.folder / MANIFEST).write_text(replace(model.manifest(), parity={}).to_json())
    with pytest.raises(ServeError, match="has no tolerance"):
        check_engine(model, Encoder())


def test_a_missing_reference_is_refused(model: BuiltModel) -> None:
    (model.folder / "reference.npz").unlink()
    with pytest.raises(RepositoryError, match="cannot be read"):
        check_engine(model, Encoder())
