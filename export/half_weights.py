"""Weights stored in half the size. For the file only: computing stays in float32."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from engines.onnx.deployable import replace_items
from export.errors import ExportError

HALF_SUFFIX = ".half"


def half_tensor(tensor: onnx.TensorProto, name: str, instead: str) -> onnx.TensorProto:
    """A float32 tensor in float16, under another name.

    Args:
        instead: what to do where it does not fit.

    Raises:
        ExportError: a value is beyond float16.
    """
    values = onnx.numpy_helper.to_array(tensor)
    limit, greatest = np.finfo(np.float16).max, np.abs(values).max(initial=0)
    if not greatest <= limit:
        raise ExportError(
            f"weight {tensor.name}: expected at most {limit:.0f} to fit float16, got {greatest}; {instead}"
        )
    return onnx.numpy_helper.from_array(values.astype(np.float16), name)


def store_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose convolution weights are stored in float16, each followed by a Cast to float.

    Computing stays in float32: ONNX Runtime folds the Casts when it loads the file. Biases and normalization
    stay as they are; they are a hundredth of the size, and a variance would not survive the narrow range.

    Raises:
        ExportError: a weight is beyond float16.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    used = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    casts = []
    for tensor in graph.initializer:
        if tensor.name not in used or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        name = tensor.name
        tensor.CopyFrom(half_tensor(tensor, name + HALF_SUFFIX, "export without half weights"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    replace_items(graph.node, [*casts, *graph.node])
    return model


def restore_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights are float32 again, with what float16 left of them: the inverse of ``store_half``."""
    model = copy.deepcopy(model)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.name.endswith(HALF_SUFFIX)}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in stored]:
        tensor = stored[node.input[0]]
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    return model
