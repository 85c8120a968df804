"""The tokens that a head looks at are picked before the last layer treats each by itself, and no number changes."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from building import make_checkpoint
from checkpoints import ARCHITECTURES
from tritext.build import export as exports
from tritext.build import picking
from tritext.build.checkpoint import Overrides, inspect
from tritext.build.export import export, input_names
from tritext.build.picking import pick_early
from tritext.build.source import locate
from tritext.build.weights import load_model
from tritext.tasks.base import Per

Exporter = Callable[[str], onnx.ModelProto]


def exporter(folder: Path, architecture: str, head: str, per: Per, *, packed: bool) -> Exporter:
    """Writes the checkpoint's graph to a file of the given name, and reads it."""
    facts, tokenizer = inspect(
        locate(str(make_checkpoint(folder / "made", head, architecture=architecture))), Overrides()
    )

    def exported(name: str) -> onnx.ModelProto:
        model = load_model(facts)
        path = folder / name / "model.onnx"
        export(model, input_names(model, tokenizer), per, path, packed=packed)
        return onnx.load(path)

    return exported


def outputs(model: onnx.ModelProto, *names: str) -> dict[str, np.ndarray]:
    """The tensors `names` of the graph for two rows: of two texts each where it is packed, the second one padded."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "logits")
    session = onnxruntime.InferenceSession(watched.SerializeToString())
    ids = np.random.default_rng(0).integers(10, 90, (2, 16), dtype=np.int32)
    given = {
        "input_ids": ids,
        "token_type_ids": np.zeros_like(ids),
        "attention_mask": np.array([[1] * 16, [1] * 11 + [0] * 5], dtype=np.int32),
        "position_ids": np.array([[*range(6), *range(10)], [*range(7), *range(4), *[0] * 5]], dtype=np.int32),
        "segment_ids": np.array([[1] * 6 + [2] * 10, [1] * 7 + [2] * 4 + [0] * 5], dtype=np.int32),
        "first_tokens": np.array([0, 6, 16], dtype=np.int32),
    }
    found = session.run(list(names), {each.name: given[each.name] for each in session.get_inputs()})
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_last_layer_treats_what_is_picked_and_says_the_same(
    architecture: str, packed: bool, tmp_path: Path
) -> None:
    exported = exporter(tmp_path, architecture, "single", "text", packed=packed)
    picked = exported("picked")
    with mock.patch.object(exports, "pick_early", return_value=()):
        whole = exported("whole")
    products = [node.output[0] for node in picked.graph.node if node.op_type == "MatMul" and "layer" in node.name][-2:]
    got, expected = outputs(picked, "logits", *products), outputs(whole, "logits", *products)
    np.testing.assert_allclose(got["logits"], expected["logits"], rtol=1e-4, atol=1e-4)
    texts = len(got["logits"])
    for product in products[-1 if architecture == "modernbert" else 0 :]:  # its gate stays where it is
        assert expected[product].shape[:2] == (2, 16)
        assert got[product].shape == (texts, expected[product].shape[2])


def test_the_tokens_of_masks_are_picked_early_too(tmp_path: Path) -> None:
    picked = exporter(tmp_path, "bert", "masked", "mask", packed=True)("picked")
    product = [node.output[0] for node in picked.graph.node if "layer.1" in node.name and node.op_type == "MatMul"][-1]
    assert len(outputs(picked, product)[product]) == 3


def test_all_tokens_stay_where_each_has_a_label(tmp_path: Path) -> None:
    model = exporter(tmp_path, "bert", "tokens", "token", packed=True)("whole")
    before = model.SerializeToString()
    assert not pick_early(model)
    assert model.SerializeToString() == before


# --- graphs by hand ----------------------------------------------------------------------------------------------

OUTPUTS = {"logits": ["texts", 4], "again": ["texts", 4], "hidden": [2, 3, 4], "sum": [1, 1, 1]}
FLAT = helper.make_node("Reshape", ["hidden", "to"], ["rows"])
PICKED = (FLAT, helper.make_node("Gather", ["rows", "first_tokens"], ["logits"]))


def graph(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("logits",)) -> onnx.ModelProto:
    """Of x [2, 3, 4], and of ``first_tokens`` [2] where a node takes them, as in a packed graph.

    "weights" are [4, 4], "column" [3, 1], "to" lays rows end to end.
    """
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 4])]
    if any("first_tokens" in node.input for node in nodes):
        given.append(helper.make_tensor_value_info("first_tokens", TensorProto.INT32, ["texts"]))
    weights = np.arange(16, dtype=np.float32).reshape(4, 4)
    constants = {"weights": weights, "column": weights[:3, :1], "to": np.array([-1, 4])}
    return helper.make_model(
        helper.make_graph(
            list(nodes), "by hand", given,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, OUTPUTS[name]) for name in outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=9,
    )  # fmt: skip


def answer(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model)
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    given = {"x": x, "first_tokens": np.array([0, 4], dtype=np.int32)}
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (logits,) = session.run(["logits"], {each.name: given[each.name] for each in session.get_inputs()})
    return np.asarray(logits)


def relu(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [target])


@pytest.mark.parametrize(
    ("nodes", "moved"),
    [
        ([relu("x", "a"), helper.make_node("MatMul", ["a", "weights"], ["hidden"]), *PICKED], 2),
        ([helper.make_node("Softmax", ["x"], ["a"], axis=1), relu("a", "hidden"), *PICKED], 1),
        ([helper.make_node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2),
          helper.make_node("Concat", ["b", "a"], ["c"], axis=2), relu("c", "hidden"), *PICKED], 1),
        ([helper.make_node("LayerNormalization", ["x", "to_scale"], ["hidden"], axis=2), *PICKED], 1),
    ],
    ids=["all", "behind what mixes tokens", "behind what joins halves", "an axis counted from the front"],
)  # fmt: skip
def test_what_is_behind_the_pick_then(nodes: list[onnx.NodeProto], moved: int) -> None:
    nodes = [helper.make_node("ReduceSum", ["weights", "rows_of"], ["to_scale"], keepdims=0), *nodes]
    model = graph(*nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "rows_of"))
    if any(node.op_type == "Split" for node in nodes):
        model.opset_import[0].version = 18
    expected = answer(model)
    assert len(pick_early(model)) == moved
    np.testing.assert_allclose(answer(model), expected, rtol=1e-5)


ZERO = onnx.numpy_helper.from_array(np.array(0))
FIRST = helper.make_node("Gather", ["hidden", "place"], ["logits"], axis=1)  # of each row, where none is packed
AT = helper.make_node("Constant", [], ["place"], value=ZERO)


@pytest.mark.parametrize(
    ("nodes", "moved"),
    [
        ([relu("x", "a"), relu("a", "hidden"), AT, FIRST], 2),
        ([AT, relu("x", "a"), relu("a", "hidden"), FIRST], 2),
        ([relu("x", "hidden"), helper.make_node("Identity", ["zero"], ["place"]), FIRST], 1),
        ([helper.make_node("Softmax", ["x"], ["hidden"], axis=1),
          helper.make_node("Identity", ["zero"], ["place"]), FIRST], 0),
    ],
    ids=["behind it", "in front of it", "another constant behind it", "only a constant could be moved"],
)  # fmt: skip
def test_the_place_of_the_token_stands_where_it_may(nodes: list[onnx.NodeProto], moved: int) -> None:
    model = graph(*nodes)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "zero"))
    expected = answer(model)
    assert len(pick_early(model)) == moved
    np.testing.assert_allclose(answer(model), expected, rtol=1e-5)


def test_a_place_that_a_run_decides_is_left_alone() -> None:
    shape = [helper.make_node("Shape", ["x"], ["sizes"]), helper.make_node("Gather", ["sizes", "zero"], ["rows"]),
             helper.make_node("Sub", ["rows", "rows"], ["place"])]  # fmt: skip
    model = graph(relu("x", "hidden"), *shape, FIRST)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "zero"))
    expected = answer(model)
    assert not pick_early(model)
    np.testing.assert_array_equal(answer(model), expected)


@pytest.mark.parametrize("pick", [PICKED, (AT, FIRST)], ids=["packed", "padded"])
@pytest.mark.parametrize("axis", [0, 1], ids=["of all rows", "of a row"])
def test_a_mean_that_tokens_share_is_no_tokens(axis: int, pick: tuple[onnx.NodeProto, ...]) -> None:
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[axis], keepdims=1)
    model = graph(mean, helper.make_node("Add", ["x", "mean"], ["a"]), relu("a", "hidden"), *pick)
    expected = answer(model)
    assert len(pick_early(model)) == 1
    np.testing.assert_allclose(answer(model), expected, rtol=1e-5)


def test_sizes_that_a_run_decides_are_those_of_tokens() -> None:
    model = graph(relu("x", "hidden"), *PICKED)
    for place, name in enumerate(("rows", "length")):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = name
    expected = answer(model)
    assert len(pick_early(model)) == 1
    np.testing.assert_allclose(answer(model), expected, rtol=1e-5)


def test_shapes_are_told_without_the_weights() -> None:
    model = graph(
        helper.make_node("MatMul", ["x", "wide"], ["a"]), helper.make_node("MatMul", ["a", "back"], ["hidden"]), *PICKED
    )
    for name, shape in (("wide", (4, 1000)), ("back", (1000, 4))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    with mock.patch.object(picking.shape_inference, "infer_shapes", wraps=onnx.shape_inference.infer_shapes) as infer:
        assert len(pick_early(model)) == 2
    assert infer.call_args.args[0].ByteSize() < 2_000


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([relu("x", "hidden"), *PICKED], ("logits", "hidden")),
        ([relu("x", "hidden"), *PICKED, helper.make_node("ReduceSum", ["hidden"], ["sum"])], ("logits", "sum")),
        ([helper.make_node("Add", ["x", "column"], ["hidden"]), *PICKED], ("logits",)),
        ([helper.make_node("Softmax", ["x"], ["hidden"], axis=1), *PICKED], ("logits",)),
        ([helper.make_node("LayerNormalization", ["x", "weights"], ["hidden"], axis=1), *PICKED], ("logits",)),
        ([relu("x", "hidden"), FLAT, helper.make_node("Gather", ["rows", "first_tokens"], ["again"]),
          helper.make_node("Gather", ["rows", "first_tokens"], ["logits"])], ("logits", "again")),
    ],
    ids=["it is an output", "all are summed", "a constant for each place", "it mixes tokens", "it norms a row", "two"],
)  # fmt: skip
def test_nothing_is_moved_where_all_tokens_count(nodes: list[onnx.NodeProto], outputs: tuple[str, ...]) -> None:
    model = graph(*nodes, outputs=outputs)
    before = model.SerializeToString()
    assert not pick_early(model)
    assert model.SerializeToString() == before
