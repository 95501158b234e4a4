"""The convolutions of a network: which are sensitive to INT8, which share weights, and the work of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx

from engines.core.contract import TENSORRT


def sensitive_convolutions(network: onnx.ModelProto, layout: str) -> tuple[str, ...]:
    """Return the convolutions kept in FP16 (FP32) by default: the first, which reads pixels, and the last of each head.

    In the layout ``cpu``, the last convolution of the class head is quantized nevertheless. With 91 classes it is a
    sixth of the network's work, and in FP32 it took a quarter of the time of the quantized R50. Its output is quantized
    as well, because ONNX Runtime has no integer convolution with float output.

    Args:
        network: float32 network that returns raw heads.
        layout: layout of the INT8 operators, ``tensorrt`` or ``cpu``.

    Examples:
        >>> from engines.onnx.deployable import heads_only, read_deployable
        >>> from retina_edge.assets import MODEL
        >>> network = heads_only(read_deployable(MODEL.read_bytes()))
        >>> sensitive_convolutions(network, "cpu")[:2]  # the other three are bbox_reg of the other pyramid levels
        ('backbone.body.conv1', 'head.regression_head.bbox_reg:0')
    """
    convolutions = [node for node in network.graph.node if node.op_type == "Conv"]
    heads = {output.name for output in network.graph.output if layout == TENSORRT or output.name.startswith("box")}
    return tuple(node.name for index, node in enumerate(convolutions) if index == 0 or set(node.output) & heads)


def weight_groups(network: onnx.ModelProto, kept: Collection[str] = ()) -> list[tuple[str, ...]]:
    """Return the convolutions in groups that share weights and must be quantized together.

    Args:
        network: network whose convolutions have names.
        kept: names of convolutions to omit.

    Examples:
        >>> from engines.onnx.deployable import heads_only, read_deployable
        >>> from retina_edge.assets import MODEL
        >>> groups = weight_groups(heads_only(read_deployable(MODEL.read_bytes())))
        >>> groups[0], len(groups[-1])  # the heads run on all four pyramid levels
        (('backbone.body.conv1',), 4)
    """
    groups: dict[str, list[str]] = {}
    for node in network.graph.node:
        if node.op_type == "Conv" and node.name not in kept:
            groups.setdefault(node.input[1], []).append(node.name)
    return [tuple(names) for names in groups.values()]


def multiply_adds(network: onnx.ModelProto) -> dict[str, int]:
    """Return the number of multiply-adds of each convolution for one image, by the name of the convolution.

    Args:
        network: float32 network that returns raw heads, with float32 weights, see ``restore_weights``.

    Examples:
        >>> from engines.onnx.deployable import heads_only, read_deployable
        >>> from export.half_weights import restore_weights
        >>> from retina_edge.assets import MODEL
        >>> work = multiply_adds(restore_weights(heads_only(read_deployable(MODEL.read_bytes()))))
        >>> work["backbone.body.conv1"] == 64 * (3 * 7 * 7) * (416 // 2) * (736 // 2)
        True
    """
    inferred = onnx.shape_inference.infer_shapes(network, data_prop=True)
    tensors = (*inferred.graph.value_info, *inferred.graph.output)
    shapes = {info.name: [dim.dim_value or 1 for dim in info.type.tensor_type.shape.dim] for info in tensors}
    weights = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    return {
        node.name: int(np.prod(shapes[node.output[0]][1:])) * int(np.prod(weights[node.input[1]][1:]))
        for node in network.graph.node
        if node.op_type == "Conv"
    }


def int8_share(work: Mapping[str, int], kept: Collection[str]) -> float:
    """Return the share of INT8 in the multiply-adds of all convolutions, 0 to 1.

    Args:
        work: multiply-adds of each convolution, from ``multiply_adds``.
        kept: names of the convolutions kept in FP16 (FP32).

    Examples:
        >>> int8_share({"conv1": 100, "conv2": 300}, kept=["conv1"])
        0.75
    """
    return 1 - sum(work[name] for name in kept) / sum(work.values())
