"""Have the last layer computed for the tokens that are looked at, and no others.

A head looks at one token of a text, the first, or at its masks. Behind the last attention a transformer treats each
token by itself: products with weights, norms, activations, sums. So these tokens can be picked in front of all that
instead of behind it, and no number changes. What is saved is nine twelfths of a layer's products for nearly all tokens:
an eighth of a model of six layers, a sixteenth of one of twelve. Keys and values are still made of every token.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, shape_inference

from tritext.engines.base import FIRST_TOKENS

# They treat each number by itself, or the numbers of one token together.
_TOKENWISE: Final = frozenset({
    "Add", "Cast", "Div", "Erf", "Gelu", "Identity", "LayerNormalization", "MatMul", "Mul", "Neg", "Pow", "Relu",
    "Sigmoid", "Split", "Sqrt", "Sub", "Tanh",
})  # fmt: skip
_AXIS: Final = {"LayerNormalization": -1, "Split": 0}  # where they say none; it must be that of a token's numbers
_RANK: Final = 3  # of a tensor with all tokens: rows, tokens of a row, numbers of a token
_SMALL: Final = 1024  # constants of so many numbers may be shapes

Shape: TypeAlias = tuple[int, ...]
"""The sizes of a tensor's dimensions, 0 for those that a run decides."""


@dataclass(frozen=True, slots=True)
class _Pick:
    """What picks `output` [T, H] from `source` [R, L, H], the tensor of all tokens.

    By ``first_tokens`` from the rows end to end if it `is_packed`, else the token at `index` of each row.
    """

    source: str
    index: str
    output: str
    is_packed: bool

    def of(self, tensor: str) -> list[NodeProto]:
        """The nodes that pick the same tokens of `tensor` [R, L, C]; the last one gives them, [T, C]."""
        picked = _picked(tensor)
        if not self.is_packed:
            return [helper.make_node("Gather", [tensor, self.index], [picked], name=picked, axis=1)]
        flat = f"{tensor}_flat"
        return [
            helper.make_node("Flatten", [tensor], [flat], name=flat, axis=-1),
            helper.make_node("Gather", [flat, self.index], [picked], name=picked, axis=0),
        ]

    def inputs(self, node: NodeProto) -> Sequence[str]:
        """What `node` takes, if it is not this one; else its source as it is, however it was laid out for it."""
        return (self.source, self.index) if node.output[0] == self.output else node.input


def pick_early(model: ModelProto) -> tuple[NodeProto, ...]:
    """Move the picking of tokens in `model` towards its inputs; the nodes that get fewer tokens by that.

    `model` is changed in place. Nothing happens where it picks none, or in several places.
    """
    graph = model.graph
    if any(part.type == AttributeProto.GRAPH for node in graph.node for part in node.attribute):
        return ()  # what a branch uses is not seen
    shapes, constants = _shapes(model), _constants(graph)
    picks = list(_picks(graph, constants, shapes))
    if len(picks) != 1:
        return ()
    (pick,) = picks
    nodes = _needed(graph, pick)
    moved = _moved(graph, nodes, pick, constants, shapes)
    if moved:
        _rewire(graph, nodes, pick, moved, constants)
    return tuple(moved)


def _picked(tensor: str) -> str:
    return f"{tensor}_picked"


def _shapes(model: ModelProto) -> dict[str, Shape]:
    """Of each tensor of `model` where the number of dimensions can be told."""
    graph = model.graph
    light = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)  # without the large weights
    light.graph.name = graph.name
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    for weight in graph.initializer:
        if math.prod(weight.dims) <= _SMALL and not weight.external_data:
            light.graph.initializer.append(weight)
        else:
            light.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    inferred = shape_inference.infer_shapes(light, data_prop=True).graph
    known = (value for value in (*inferred.input, *inferred.value_info) if value.type.tensor_type.HasField("shape"))
    shapes = {value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in known}
    return shapes | {weight.name: tuple(weight.dims) for weight in graph.initializer}


def _is_of_tokens(shape: Shape | None) -> bool:
    """Whether a tensor has numbers of each token. Those that all rows, or all tokens of a row, share are not picked."""
    return shape is not None and len(shape) == _RANK and 1 not in shape[:-1]


def _picks(graph: GraphProto, constants: set[str], shapes: Mapping[str, Shape]) -> Iterator[_Pick]:
    made_by = {output: node for node in graph.node for output in node.output}
    is_packed = any(given.name == FIRST_TOKENS for given in graph.input)
    for node in graph.node:
        if node.op_type != "Gather":
            continue
        source, index = node.input
        if is_packed and index == FIRST_TOKENS and (flat := made_by.get(source)) and flat.op_type == "Reshape":
            source = flat.input[0]
        elif is_packed or not (index in constants and shapes.get(index) == () and _axis(node, 0) == 1):
            continue
        if _is_of_tokens(shapes.get(source)):
            yield _Pick(source, index, node.output[0], is_packed)


def _axis(node: NodeProto, usual: int) -> int:
    return next((int(part.i) for part in node.attribute if part.name == "axis"), usual)


def _needed(graph: GraphProto, pick: _Pick) -> list[NodeProto]:
    """The nodes, in order, that the outputs need if the picking takes its source as it is."""
    wanted = {output.name for output in graph.output}
    needed = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            needed.append(node)
            wanted.update(pick.inputs(node))
    return needed[::-1]


def _moved(
    graph: GraphProto, nodes: Sequence[NodeProto], pick: _Pick, constants: set[str], shapes: Mapping[str, Shape]
) -> list[NodeProto]:
    """Those of `nodes` that can get picked tokens only: tokenwise ones whose outputs nobody else takes, last first."""
    takers: defaultdict[str, set[str]] = defaultdict(set)  # nodes, by their first outputs
    for node in nodes:
        for tensor in pick.inputs(node):
            takers[tensor].add(node.output[0])
    final = {output.name for output in graph.output}
    behind, moved = {pick.output}, []
    for node in reversed(nodes):
        taken_by = chain.from_iterable(takers[output] for output in node.output)
        if behind.issuperset(taken_by) and final.isdisjoint(node.output) and _is_tokenwise(node, constants, shapes):
            behind.add(node.output[0])
            moved.append(node)
    return moved


def _is_tokenwise(node: NodeProto, constants: set[str], shapes: Mapping[str, Shape]) -> bool:
    if node.op_type not in _TOKENWISE:
        return False
    fixed = [tensor for tensor in node.input if tensor in constants]
    tokens = [tensor for tensor in (*node.input, *node.output) if tensor and tensor not in constants]
    if not tokens or not all(_is_of_tokens(shapes.get(tensor)) for tensor in tokens):
        return False
    ranks = [len(shapes.get(tensor, range(_RANK))) for tensor in fixed]
    if node.op_type == "MatMul":
        return list(node.input[1:]) == fixed and ranks == [2]
    if node.op_type in _AXIS and _axis(node, _AXIS[node.op_type]) not in (-1, _RANK - 1):
        return False
    return all(rank <= 1 for rank in ranks)


def _constants(graph: GraphProto) -> set[str]:
    """What no input of the graph has a part in. Weights that layers share are named by nodes of their own."""
    constants = {weight.name for weight in graph.initializer}
    for node in graph.node:
        if constants.issuperset(node.input):
            constants.update(node.output)
    return constants


def _rewire(
    graph: GraphProto, nodes: Sequence[NodeProto], pick: _Pick, moved: Sequence[NodeProto], constants: set[str]
) -> None:
    own = constants.union(*(node.output for node in moved))
    whole = {tensor for node in moved for tensor in node.input if tensor and tensor not in own}
    before = chain.from_iterable(pick.of(given.name) for given in graph.input if given.name in whole)
    fixed = [node for node in nodes if constants.issuperset(node.output)]
    kept = [*fixed, *before]  # the index may be among them, and stand behind what is picked from now
    for node in nodes:
        if node.output[0] != pick.output and not constants.issuperset(node.output):
            kept += [node, *chain.from_iterable(pick.of(tensor) for tensor in node.output if tensor in whole)]
    for node in moved:
        _rename(node.input, {tensor: _picked(tensor) for tensor in whole})
        _rename(node.output, {pick.source: pick.output})
        for part in node.attribute:
            if part.name == "axis":
                part.i = -1  # there is a dimension less
    kept = [NodeProto.FromString(node.SerializeToString()) for node in kept]  # not to be lost with the graph's own
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)


def _rename(tensors: MutableSequence[str], names: Mapping[str, str]) -> None:
    for place, tensor in enumerate(tensors):
        tensors[place] = names.get(tensor, tensor)
