"""Convert a network to half precision: float16 weights, activations and raw heads, float32 preprocessing.

The types in the ONNX are the only place that sets the precision: TensorRT builds a strongly typed network from them.
"""

from __future__ import annotations

import copy

import onnx
import onnx.helper

from engines.onnx.deployable import replace_items
from export.errors import ExportError
from export.half_weights import HALF_SUFFIX, half_tensor

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
HALF_NAME = "images_half"


def to_half(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a float32 network in float16, including the raw heads. Decode accepts raw heads in float16.

    The preprocessing, up to the first convolution, stays in float32, in which the multiplication of 8-bit pixels by a
    scale loses nothing. The cast to float16 after it is one pass over the smallest tensor.

    Args:
        network: float32 network that returns raw heads.

    Raises:
        ExportError: if a weight is NaN or too large for float16, or the network has no convolution.

    Examples:
        >>> from engines.onnx.deployable import head_types, heads_only, read_deployable
        >>> from export.half_weights import restore_weights
        >>> from retina_edge.assets import MODEL
        >>> network = restore_weights(heads_only(read_deployable(MODEL.read_bytes())))
        >>> head_types(network), head_types(to_half(network))
        ({'float'}, {'float16'})
    """
    model = copy.deepcopy(network)
    graph = model.graph
    start = _preprocessed(graph)
    before = _ancestors(graph, start)
    inside = [node for node in graph.node if not before & set(node.output)]
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == FLOAT}
    halved = floats & {name for node in inside for name in _data(node)}
    # Tensors that are also read in float32, for instance by the preprocessing, are stored in both types.
    in_both_types = halved & {
        name for node in graph.node for name in node.input if node not in inside or name not in _data(node)
    }
    renamed = {start: HALF_NAME, **{name: name + HALF_SUFFIX for name in in_both_types}}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in halved]:
        half = half_tensor(tensor, renamed.get(tensor.name, tensor.name), "export in fp32")
        if tensor.name in in_both_types:
            graph.initializer.append(half)
        else:
            tensor.CopyFrom(half)
    for node in inside:
        for position, name in enumerate(node.input):
            if name in _data(node):
                node.input[position] = renamed.get(name, name)
        _retype_cast(node)
    nodes = list(graph.node)
    producer = next(index for index, node in enumerate(nodes) if start in node.output)
    cast = onnx.helper.make_node("Cast", [start], [HALF_NAME], name="to_half", to=HALF)
    replace_items(graph.node, [*nodes[: producer + 1], cast, *nodes[producer + 1 :]])
    computed = {name for node in inside for name in node.output}
    for info in (*graph.value_info, *graph.output):
        if info.name in computed and info.type.tensor_type.elem_type == FLOAT:
            info.type.tensor_type.elem_type = HALF
    # The value_info of an initializer is redundant, and now has the wrong type.
    weights = {tensor.name for tensor in graph.initializer}
    replace_items(graph.value_info, [info for info in graph.value_info if info.name not in weights])
    return model


def _data(node: onnx.NodeProto) -> list[str]:
    """Return the inputs that have the type of the data: all except the regions and scales of a Resize."""
    return [node.input[0]] if node.op_type == "Resize" else list(node.input)


def _preprocessed(graph: onnx.GraphProto) -> str:
    """Return the name of the tensor that leaves the preprocessing: the input of the first convolution."""
    for node in graph.node:
        if node.op_type == "Conv":
            return str(node.input[0])
    raise ExportError("expected a network with convolutions, got one without; check that it is a detector")


def _ancestors(graph: onnx.GraphProto, name: str) -> set[str]:
    """Return the names of a tensor and of all tensors that it is computed from, without graph inputs and weights."""
    producers = {output: node for node in graph.node for output in node.output}
    ancestors: set[str] = set()
    pending = [name]
    while pending:
        current = pending.pop()
        if current not in ancestors and current in producers:
            ancestors.add(current)
            pending.extend(producers[current].input)
    return ancestors


def _retype_cast(node: onnx.NodeProto) -> None:
    """Turn a Cast to float32 into a Cast to float16."""
    if node.op_type == "Cast" and node.attribute[0].i == FLOAT:
        node.attribute[0].i = HALF
