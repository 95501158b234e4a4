"""Fold the exchange of blue and red into the first convolution, which costs nothing at run time.

The preprocessing of a model trained on RGB exchanges two channels of the whole input. Instead, the scale, the offset
and the input channels of the first convolution can be exchanged once. This is exact: the same products are added, in
another order. The scale and the offset themselves stay, because the convolution pads with zeros after them.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.numpy_helper

from engines.onnx.deployable import replace_items

BGR_FROM_RGB = [2, 1, 0]


def fold_color_order(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a network that reads BGR without an exchange of channels.

    The network is returned as it is if it has no exchange, or the exchange does not lead straight to a convolution with
    weights of its own: Gather, then Mul and Sub by constants, then a Conv without groups.

    Args:
        network: exported network, with weights in float32.

    Examples:
        >>> from engines.onnx.deployable import heads_only, read_deployable
        >>> from export.half_weights import restore_weights
        >>> from retina_edge.assets import MODEL
        >>> network = restore_weights(heads_only(read_deployable(MODEL.read_bytes())))
        >>> len(network.graph.node) - len(fold_color_order(network).graph.node)
        1
    """
    model = copy.deepcopy(network)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    exchange = next((node for node in graph.node if _exchanges_colors(node, constants)), None)
    if exchange is None:
        return network
    chain = [exchange]
    for kind in ("Mul", "Sub", "Conv"):
        readers = [node for node in graph.node if chain[-1].output[0] in node.input]
        if [node.op_type for node in readers] != [kind] or readers[0].input[0] != chain[-1].output[0]:
            return network
        chain.append(readers[0])
    _, scale, offset, convolution = chain
    changes = {scale.input[1]: 0, offset.input[1]: 0, convolution.input[1]: 1}  # name: axis of the color channels
    uses = [name for node in graph.node for name in node.input]
    for name, axis in changes.items():
        if name not in constants or constants[name].dims[axis] != 3 or uses.count(name) != 1:
            return network
    for name, axis in changes.items():
        values = np.take(onnx.numpy_helper.to_array(constants[name]), BGR_FROM_RGB, axis)
        constants[name].CopyFrom(onnx.numpy_helper.from_array(values, name))
    scale.input[0] = exchange.input[0]
    graph.node.remove(exchange)
    gone = {exchange.output[0]}
    if uses.count(exchange.input[1]) == 1:
        graph.initializer.remove(constants[exchange.input[1]])
        gone.add(exchange.input[1])
    replace_items(graph.value_info, [info for info in graph.value_info if info.name not in gone])
    return model


def _exchanges_colors(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type != "Gather" or node.input[1] not in constants or [a.i for a in node.attribute] != [1]:
        return False
    return bool(np.array_equal(onnx.numpy_helper.to_array(constants[node.input[1]]), BGR_FROM_RGB))
