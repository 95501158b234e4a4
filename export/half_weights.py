"""Store weights in float16, which halves the size of the file. Computation stays in float32."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from engines.onnx.deployable import replace_items
from export.errors import ExportError

HALF_SUFFIX = ".half"


def half_tensor(tensor: onnx.TensorProto, name: str, fix: str) -> onnx.TensorProto:
    """Return a float32 tensor in float16, under another name.

    Args:
        tensor: float32 tensor.
        name: name of the float16 tensor.
        fix: advice for the error message if a value does not fit.

    Raises:
        ExportError: if a value is NaN or too large for float16.

    Examples:
        >>> weights = onnx.numpy_helper.from_array(np.ones((8, 4), np.float32), "weight")
        >>> half = half_tensor(weights, "weight.half", "export in fp32")
        >>> half.name, onnx.numpy_helper.to_array(half).dtype
        ('weight.half', dtype('float16'))
    """
    values = onnx.numpy_helper.to_array(tensor)
    limit, largest = np.finfo(np.float16).max, np.abs(values).max(initial=0)
    if not largest <= limit:
        raise ExportError(f"weight {tensor.name}: expected at most {limit:.0f} to fit float16, got {largest}; {fix}")
    return onnx.numpy_helper.from_array(values.astype(np.float16), name)


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model that stores the weights of its convolutions in float16, each with a Cast to float32.

    Computation stays in float32, because ONNX Runtime folds the Casts when it loads the file. Biases and normalization
    stay in float32: they are a hundredth of the size, and the narrow range of float16 could not hold a variance.

    Raises:
        ExportError: if a weight is NaN or too large for float16.

    Examples:
        >>> from engines.onnx.deployable import heads_only, read_deployable
        >>> from retina_edge.assets import MODEL
        >>> network = restore_weights(heads_only(read_deployable(MODEL.read_bytes())))
        >>> round(store_half(network).ByteSize() / network.ByteSize(), 2)
        0.5
    """
    model = copy.deepcopy(model)
    graph = model.graph
    used = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    casts = []
    for tensor in graph.initializer:
        if tensor.name not in used or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        name = tensor.name
        tensor.CopyFrom(half_tensor(tensor, name + HALF_SUFFIX, "export without half_weights"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    replace_items(graph.node, [*casts, *graph.node])
    return model


def restore_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model with weights in float32 again: the inverse of ``store_half``, except for the rounding.

    Examples:
        >>> from engines.onnx.deployable import heads_only, read_deployable
        >>> from retina_edge.assets import MODEL
        >>> network = heads_only(read_deployable(MODEL.read_bytes()))
        >>> round(restore_weights(network).ByteSize() / network.ByteSize(), 1)  # the sample model has half weights
        2.0
    """
    model = copy.deepcopy(model)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.name.endswith(HALF_SUFFIX)}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in stored]:
        tensor = stored[node.input[0]]
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    return model
