"""A half-precision ONNX in float32, for measuring on a CPU, which has no arithmetic for float16 of its own.

ONNX Runtime 1.32 computes float16 in float32 between casts of its own, and its optimiser makes something else of
quantised networks in float16: the raw heads of an INT8 network for TensorRT are 10 to 15 dB further off FP32 than
without the optimiser, or than the same network here. So whoever wants to know how accurate it is runs this.
"""

from __future__ import annotations

import copy
from pathlib import Path

import onnx
import onnx.helper
import onnx.numpy_helper

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def measurable(model: onnx.ModelProto) -> onnx.ModelProto:
    """What to run on a CPU to know how accurate a model is: in float32 where it is quantised and in float16."""
    scales = {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    halves = {tensor.name for tensor in model.graph.initializer if tensor.data_type == HALF}
    return to_float32(model) if scales & halves else model


def measurable_file(path: Path) -> bytes:
    """The same of a file, as its content."""
    content: bytes = measurable(onnx.load(path)).SerializeToString()
    return content


def to_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every float16 tensor is a float32 one of the same values; weights keep their rounding."""
    twin = copy.deepcopy(model)
    graph = twin.graph
    for tensor in graph.initializer:
        if tensor.data_type == HALF:
            values = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for info in (*graph.value_info, *graph.input, *graph.output):
        if info.type.tensor_type.elem_type == HALF:
            info.type.tensor_type.elem_type = FLOAT
    for node in (*graph.node, *(node for function in twin.functions for node in function.node)):
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF:
                attribute.i = FLOAT
            if attribute.HasField("t") and attribute.t.data_type == HALF:
                values = onnx.numpy_helper.to_array(attribute.t).astype("float32")
                attribute.t.CopyFrom(onnx.numpy_helper.from_array(values, attribute.t.name))
    return twin
