"""Fold batch normalizations into the convolutions before them, which costs nothing at run time.

The exporter folds those whose convolution has weights of its own, as in the backbone. In the heads, all pyramid levels
share the weights of a convolution, and each level has its own statistics. Folded, each level has its own weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper

from engines.onnx.deployable import replace_items


def fold_batch_norms(network: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a network without batch normalizations after convolutions.

    A normalization stays if it is not the only reader of a convolution, or if a constant of either is computed. The
    convolutions must be named after their weights; see ``name_convolutions``.

    Args:
        network: exported network, with weights in float32.

    Examples:
        >>> from engines.onnx.deployable import heads_only, read_deployable
        >>> from retina_edge.assets import MODEL
        >>> network = heads_only(read_deployable(MODEL.read_bytes()))
        >>> len(fold_batch_norms(network).graph.node) == len(network.graph.node)
        True
    """
    model = copy.deepcopy(network)
    graph = model.graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    uses = [name for node in graph.node for name in node.input] + [output.name for output in graph.output]
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        convolution = convolutions.get(norm.input[0])
        if convolution is None or uses.count(norm.input[0]) != 1:
            continue
        if not {*norm.input[1:], *convolution.input[1:]} <= constants.keys():
            continue
        names = [f"model.{convolution.name}.{kind}" for kind in ("weight", "bias")]
        folded = _fold(norm, [constants[name] for name in (*norm.input[1:], *convolution.input[1:])])
        graph.initializer.extend(map(onnx.numpy_helper.from_array, folded, names))
        replace_items(convolution.input, [convolution.input[0], *names])
        convolution.output[0] = norm.output[0]
        graph.node.remove(norm)
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    replace_items(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])
    replace_items(graph.value_info, [info for info in graph.value_info if info.name in used])
    return model


def _fold(norm: onnx.NodeProto, constants: list[npt.NDArray[Any]]) -> Iterator[npt.NDArray[np.float32]]:
    """Return weight and bias of a convolution with the normalization after it.

    Args:
        norm: the normalization.
        constants: its scale, shift, mean and variance; then weight and, if there is one, bias of the convolution.
    """
    eps = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
    scale, shift, mean, variance, weight, *bias = (values.astype(np.float64) for values in constants)
    factor = scale / np.sqrt(variance + eps)
    yield (weight * factor[:, None, None, None]).astype(np.float32)
    yield (shift + (sum(bias) - mean) * factor).astype(np.float32)
