"""OpenVINO's runner: inputs are kept from call to call, and no call sees another's."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tritext.engines.base import RunnerOptions
from tritext.engines.openvino import _KEPT, _SMALL, OpenVinoRunner, _Request
from tritext.errors import EngineError

Arrays = dict[str, NDArray[np.int32]]


def arrays_of(rows: int, length: int, first: int = 0) -> Arrays:
    ids = np.arange(first, first + rows * length, dtype=np.int32).reshape(rows, length)
    return {"input_ids": ids, "token_type_ids": 7 * ids + 1}


def expected(arrays: Mapping[str, NDArray[np.int32]]) -> list[Any]:
    found: list[Any] = (arrays["input_ids"] + 100 * arrays["token_type_ids"]).astype(np.float32).tolist()
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose logits are the ids and a hundred times the types."""
    import openvino
    from openvino import opset13 as ops

    ids, types = (ops.parameter([-1, -1], np.int32, name=name) for name in ("input_ids", "token_type_ids"))
    for parameter, name in ((ids, "input_ids"), (types, "token_type_ids")):
        parameter.output(0).set_names({name})
    total = ops.add(ids, ops.multiply(types, ops.constant(100, np.int32)))
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    openvino.save_model(openvino.Model([ops.convert(total, np.float32)], [ids, types]), path, compress_to_fp16=False)
    return path


def runner(path: Path, streams: int = 1) -> OpenVinoRunner:
    return OpenVinoRunner(path, RunnerOptions("fp32", 1, streams))


def shapes() -> Iterator[tuple[int, int]]:
    """Each twice, among others; more of them than are kept, and large ones too."""
    for length in (*range(1, 2 * _KEPT), _SMALL):
        yield from [(1, length), (1, length), (1, 8), (2, length), (1, length)]


def test_calls_of_many_shapes_do_not_see_each_other(path: Path) -> None:
    asked, sent, answers = runner(path), [], []
    for number, shape in enumerate(shapes()):
        sent.append(arrays_of(*shape, first=number))
        answers.append(asked.run(sent[-1]))
    for number, (shape, arrays, answer) in enumerate(zip(shapes(), sent, answers, strict=True)):
        assert answer.tolist() == expected(arrays)
        assert (arrays["input_ids"] == arrays_of(*shape, first=number)["input_ids"]).all()


def test_what_is_sent_may_be_of_another_type_or_a_view_and_stays_the_callers(path: Path) -> None:
    asked, arrays = runner(path), arrays_of(4, 6)
    for each in (
        arrays,
        {name: array.astype(np.int64) for name, array in arrays.items()},
        {name: np.asfortranarray(array) for name, array in arrays.items()},
    ):
        for array in each.values():
            array.flags.writeable = False
        assert asked.run(each).tolist() == expected(arrays)
    arrays = {name: array.copy() for name, array in arrays.items()}
    first = asked.run(arrays)
    arrays["input_ids"][...] = 5
    second = asked.run(arrays)
    assert first.tolist() != second.tolist() == expected(arrays)


def test_streams_have_inputs_of_their_own(path: Path) -> None:
    asked = runner(path, 2)
    calls = [arrays_of(2, 8, first=number) for number in range(400)]
    with ThreadPoolExecutor(2) as pool:
        for arrays, answer in zip(calls, pool.map(asked.run, calls), strict=True):
            assert answer.tolist() == expected(arrays)


def test_an_input_that_is_missing(path: Path) -> None:
    with pytest.raises(EngineError, match="takes input_ids, token_type_ids, and was given input_ids"):
        runner(path).run({"input_ids": np.zeros((1, 1), np.int32)})


class Fake:
    """An inference request that adds up what is set, and may fail as it is set."""

    def __init__(self) -> None:
        self.sets = 0
        self.fails = False
        self.tensors: Mapping[str, NDArray[Any]] = {}

    def set_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.sets += 1
        self.tensors = {**self.tensors, **dict(list(tensors.items())[: 1 if self.fails else None])}
        if self.fails:
            raise RuntimeError("secret")

    def infer(self, share_outputs: bool) -> list[Any]:
        assert not share_outputs
        return [self.tensors["input_ids"] + 100 * self.tensors["token_type_ids"]]


def request(fake: Fake) -> _Request:
    types = {"input_ids": np.int32, "token_type_ids": np.int32}
    return _Request(fake, types, lambda array, shared_memory: array if shared_memory else array.copy())


def test_tensors_are_set_where_the_shape_is_another_one() -> None:
    fake = Fake()
    asked = request(fake)
    for length, sets in ((8, 1), (8, 1), (16, 2), (16, 2), (8, 3), (8, 3), (_SMALL, 4), (_SMALL, 5), (8, 6)):
        arrays = arrays_of(1, length, first=sets)
        assert asked.run(arrays).tolist() == expected(arrays)
        assert fake.sets == sets


def test_the_shapes_met_last_are_kept_and_no_large_ones() -> None:
    asked = request(Fake())
    for length in (*range(1, 3 * _KEPT), 1, _SMALL // 2 + 1):
        asked.run(arrays_of(1, length))
    lengths = [shapes[0][1][1] for shapes in asked._kept]
    assert lengths == [*range(2 * _KEPT + 1, 3 * _KEPT), 1]


def test_a_call_after_one_that_failed_sets_all_tensors_again() -> None:
    fake = Fake()
    asked = request(fake)
    asked.run(arrays_of(1, 8))
    fake.fails = True
    with pytest.raises(RuntimeError):
        asked.run(arrays_of(1, 16))
    fake.fails = False
    assert asked.run(arrays_of(1, 8, first=3)).tolist() == expected(arrays_of(1, 8, first=3))
