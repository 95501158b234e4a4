"""A network in half precision: weights and activations float16, preprocessing in float32, heads out in float16.

Precision is written into the ONNX and nowhere else: TensorRT takes the types as they stand, being strongly typed.
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
    """A copy of a float32 network of raw heads in float16; the heads too, and Decode takes them so.

    The preprocessing, up to the first convolution, stays in float32: 8-bit pixels times a scale
    lose nothing there, and the cast is one pass over the smallest tensor.

    Raises:
        ExportError: a weight is beyond float16, or there is no convolution.
    """
    model = copy.deepcopy(network)
    graph = model.graph
    start = _preprocessed(graph)
    before = _ancestors(graph, start)
    inside = [node for node in graph.node if not before & set(node.output)]
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == FLOAT}
    halved = floats & {name for node in inside for name in _data(node)}
    # What something else reads in float32 too, the preprocessing for instance, is there twice.
    twice = halved & {
        name for node in graph.node for name in node.input if node not in inside or name not in _data(node)
    }
    renamed = {start: HALF_NAME, **{name: name + HALF_SUFFIX for name in twice}}
    for tensor in [tensor for tensor in graph.initializer if tensor.name in halved]:
        half = half_tensor(tensor, renamed.get(tensor.name, tensor.name), "export in fp32")
        if tensor.name in twice:
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
    # Of initializers they say nothing new, and now something wrong.
    weights = {tensor.name for tensor in graph.initializer}
    replace_items(graph.value_info, [info for info in graph.value_info if info.name not in weights])
    return model


def _data(node: onnx.NodeProto) -> list[str]:
    """The inputs that share the type of the data: of Resize not its regions and scales, which are always float32."""
    return [node.input[0]] if node.op_type == "Resize" else list(node.input)


def _preprocessed(graph: onnx.GraphProto) -> str:
    """The tensor that leaves the preprocessing: what the first convolution reads."""
    for node in graph.node:
        if node.op_type == "Conv":
            return str(node.input[0])
    raise ExportError("expected a network with convolutions, found none")


def _ancestors(graph: onnx.GraphProto, name: str) -> set[str]:
    """A tensor and all it is computed from."""
    producers = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    open_names = [name]
    while open_names:
        current = open_names.pop()
        if current not in found and current in producers:
            found.add(current)
            open_names.extend(producers[current].input)
    return found


def _retype_cast(node: onnx.NodeProto) -> None:
    if node.op_type == "Cast" and node.attribute[0].i == FLOAT:
        node.attribute[0].i = HALF
