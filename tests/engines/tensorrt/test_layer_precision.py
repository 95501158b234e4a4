"""Precision read from a network that TensorRT-RTX parsed, and from what the engine inspector writes."""

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
    """A network of TensorRT-RTX's own parser, strongly typed; input ``x``, output ``y``."""
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
    # The parser owns the weights, the builder the rest.
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
    """Two convolutions of which the first has quantized input and weights, the second quantized weights only."""
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
    ("asked", "found", "kept"),
    [
        ("fp32", {"a": "fp32"}, ()),
        ("fp16", {"a": "fp16", "b": "fp16"}, ()),
        ("int8", {"a": "int8", "b": "fp16"}, ("b",)),
    ],
)
def test_what_was_asked_passes(asked: str, found: dict[str, str], kept: tuple[str, ...]) -> None:
    check_precision(asked, found, kept)


@pytest.mark.parametrize(
    ("asked", "found", "kept", "message"),
    [
        ("fp16", {"a": "fp16", "b": "fp32"}, (), "fp16 asked, and 1 of 2 convolutions .*first of them b in fp32"),
        ("fp32", {"a": "fp16"}, (), "fp32 asked, and 1 of 1"),
        ("int8", {"a": "fp16"}, ("a",), "int8 asked, and none of the 1 convolutions has quantized inputs"),
        ("int8", {"a": "int8", "b": "fp16"}, (), "int8 asked, and 1 of 2 .* b in fp16"),
        ("int8", {"a": "int8", "b": "fp32"}, ("b",), "int8 asked, and 1 of 2 .* b in fp32"),
        ("fp16", {}, (), "expected convolutions in the network, found none"),
    ],
)
def test_a_downgrade_is_an_error(asked: str, found: dict[str, str], kept: tuple[str, ...], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        check_precision(asked, found, kept)


def layer(kind: str, types: str, **more: str) -> dict[str, Any]:
    return {"Name": "n", "LayerType": kind, "Inputs": [{"Name": "t", "Format/Datatype": types}], **more}


def test_the_inspectors_words_for_types_are_understood() -> None:
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


def test_an_engine_that_tells_names_only_is_refused() -> None:
    with pytest.raises(BuildError, match="found names only"):
        inspected_precision('{"Layers": ["conv1 + relu1"]}')


@pytest.mark.parametrize(
    ("asked", "counts"), [("fp16", {"fp16": 60}), ("int8", {"int8": 50, "fp16": 10}), ("fp32", {"fp32": 60})]
)
def test_an_engine_as_asked_passes(asked: str, counts: dict[str, int]) -> None:
    assert check_inspected(asked, {"convolution": counts})


@pytest.mark.parametrize(
    ("asked", "counts"),
    [("fp16", {"fp32": 60}), ("fp16", {"fp16": 59, "fp32": 1}), ("int8", {"fp16": 60})],
)
def test_an_engine_of_another_precision_is_refused(asked: str, counts: dict[str, int]) -> None:
    with pytest.raises(BuildError, match=f"{asked} asked, and TensorRT built"):
        assert check_inspected(asked, {"convolution": counts})


@pytest.mark.parametrize("found", [{}, {"convolution": {"other": 60}}, {"myelin": {"fp16": 1}}])
def test_words_that_are_not_known_are_no_reason_to_refuse(found: dict[str, dict[str, int]]) -> None:
    for asked in ("fp32", "fp16", "int8"):
        assert not check_inspected(asked, found)
