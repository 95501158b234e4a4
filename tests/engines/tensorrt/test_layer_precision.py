"""Tests of the precision of a network that TensorRT-RTX parsed, and of the output of the engine inspector."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
import tensorrt_rtx

from engines.core.errors import BuildError
from engines.tensorrt.layer_precision import (
    check_inspected,
    check_precision,
    convolutions,
    inspected_precision,
    network_precision,
)

FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def parse(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray[Any, Any]], kind: int) -> Any:
    """Parse a strongly typed network with TensorRT-RTX; its input is ``x``, its output is ``y``."""
    shape = [1, 8, 16, 16]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, shape)],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=10)
    trt = tensorrt_rtx
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    assert parser.parse(model.SerializeToString()), parser.get_error(0).desc()
    # The parser owns the weights, and the builder owns all other parts, so both are kept alive.
    return type("Kept", (), {"network": network, "owners": (builder, parser)})


def convolution(name: str, x: str, weights: str, y: str) -> onnx.NodeProto:
    return onnx.helper.make_node("Conv", [x, weights], [y], name=name, pads=[1, 1, 1, 1])


def weights(kind: type[np.generic] = np.float32) -> np.ndarray[Any, Any]:
    return np.ones((8, 8, 3, 3)).astype(kind)


@pytest.mark.parametrize(("kind", "dtype", "precision"), [(FLOAT, np.float32, "fp32"), (HALF, np.float16, "fp16")])
def test_a_convolution_has_the_type_of_its_input(kind: int, dtype: type[np.generic], precision: str) -> None:
    nodes = [convolution("c", "x", "w", "a"), onnx.helper.make_node("Relu", ["a"], ["y"])]
    parsed = parse(nodes, {"w": weights(dtype)}, kind)
    assert convolutions(parsed.network) == {"c": precision}
    assert network_precision(parsed.network) == {"activation": {precision: 1}, "convolution": {precision: 1}}


def quantized(kind: type[np.generic]) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray[Any, Any]]]:
    """Return two convolutions: one with quantized input and weights, and one with only its weights quantized."""
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        onnx.helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"], axis=0),
        convolution("both", "d", "w", "a"),
        convolution("weights only", "a", "w", "y"),
    ]
    constants: dict[str, np.ndarray[Any, Any]] = {
        "s": np.array(0.1).astype(kind),
        "z": np.zeros((), np.int8),
        "w8": weights(np.int8),
        "ws": np.ones(8).astype(kind),
        "wz": np.zeros(8, np.int8),
    }
    return nodes, constants


@pytest.mark.parametrize(("kind", "dtype", "rest"), [(FLOAT, np.float32, "fp32"), (HALF, np.float16, "fp16")])
def test_int8_needs_both_operands_dequantized(kind: int, dtype: type[np.generic], rest: str) -> None:
    nodes, constants = quantized(dtype)
    parsed = parse(nodes, constants, kind)
    assert convolutions(parsed.network) == {"both": "int8", "weights only": rest}


@pytest.mark.parametrize(
    ("requested", "precisions", "kept"),
    [
        ("fp32", {"a": "fp32"}, ()),
        ("fp16", {"a": "fp16", "b": "fp16"}, ()),
        ("int8", {"a": "int8", "b": "fp16"}, ("b",)),
    ],
)
def test_the_requested_precision_passes(requested: str, precisions: dict[str, str], kept: tuple[str, ...]) -> None:
    check_precision(requested, precisions, kept)


@pytest.mark.parametrize(
    ("requested", "precisions", "kept", "message"),
    [
        (
            "fp16",
            {"a": "fp16", "b": "fp32"},
            (),
            "expected fp16, got another precision in 1 of 2 convolutions, first b in fp32",
        ),
        ("fp32", {"a": "fp16"}, (), "expected fp32, got another precision in 1 of 1"),
        ("int8", {"a": "fp16"}, ("a",), "expected int8, got no convolution with quantized inputs among 1"),
        ("int8", {"a": "int8", "b": "fp16"}, (), "expected int8, got another precision in 1 of 2 .* b in fp16"),
        ("int8", {"a": "int8", "b": "fp32"}, ("b",), "expected int8, got another precision in 1 of 2 .* b in fp32"),
        ("fp16", {}, (), "expected convolutions in the network, found none"),
    ],
)
def test_a_downgrade_is_an_error(
    requested: str, precisions: dict[str, str], kept: tuple[str, ...], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        check_precision(requested, precisions, kept)


def layer(kind: str, types: str, **more: str) -> dict[str, Any]:
    return {"Name": "n", "LayerType": kind, "Inputs": [{"Name": "t", "Format/Datatype": types}], **more}


def test_the_types_in_the_output_of_the_inspector_are_understood() -> None:
    information = json.dumps(
        {
            "Layers": [
                layer("CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format."),
                layer("CaskConvolution", "Row major linear FP16 format", ParameterType="Convolution"),
                layer("conv", "Half", TacticName="sm80_xmma_fprop_implicit_gemm"),
                layer("kgen", "Float"),
                layer("Reformat", "Row major linear FP32"),
                layer("NoOp", "Row major linear FP32", TacticName="convertUint8ToFloat"),
                layer("shape_call", "Int32"),
            ]
        }
    )
    assert inspected_precision(information) == {
        "convolution": {"fp16": 2, "int8": 1},
        "kgen": {"fp32": 1},
        "noop": {"fp32": 1},
        "reformat": {"fp32": 1},
        "shape_call": {"other": 1},
    }


def test_an_engine_that_has_only_layer_names_is_refused() -> None:
    with pytest.raises(BuildError, match="got only names"):
        inspected_precision('{"Layers": ["conv1 + relu1"]}')


@pytest.mark.parametrize(
    ("requested", "counts"), [("fp16", {"fp16": 60}), ("int8", {"int8": 50, "fp16": 10}), ("fp32", {"fp32": 60})]
)
def test_an_engine_of_the_requested_precision_passes(requested: str, counts: dict[str, int]) -> None:
    assert check_inspected(requested, {"convolution": counts})


@pytest.mark.parametrize(
    ("requested", "counts"),
    [("fp16", {"fp32": 60}), ("fp16", {"fp16": 59, "fp32": 1}), ("int8", {"fp16": 60})],
)
def test_an_engine_of_another_precision_is_refused(requested: str, counts: dict[str, int]) -> None:
    with pytest.raises(BuildError, match=f"expected {requested}, got convolutions in .* from TensorRT"):
        check_inspected(requested, {"convolution": counts})


@pytest.mark.parametrize("layers", [{}, {"convolution": {"other": 60}}, {"myelin": {"fp16": 1}}])
def test_unknown_types_are_no_reason_to_refuse(layers: dict[str, dict[str, int]]) -> None:
    for requested in ("fp32", "fp16", "int8"):
        assert not check_inspected(requested, layers)
