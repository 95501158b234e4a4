"""Tests of networks in float16: they round like torch's own half precision, and every tensor has the right type."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import torch

from engines.core.contract import DetectorContract
from engines.core.letterbox import letterbox_batch
from engines.core.tensor_names import INPUT
from engines.onnx.deployable import convolution_precisions
from export.errors import ExportError
from export.network import Network
from export.precision.half_precision import HALF_NAME, to_half

Frames = list[npt.NDArray[np.uint8]]
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@pytest.fixture(scope="module")
def half(exported: onnx.ModelProto) -> onnx.ModelProto:
    return to_half(exported)


def test_the_model_is_valid_and_has_half_the_size(half: onnx.ModelProto, exported: onnx.ModelProto) -> None:
    onnx.checker.check_model(half, full_check=True)
    assert half.ByteSize() < 0.55 * exported.ByteSize()
    assert {output.type.tensor_type.elem_type for output in half.graph.output} == {HALF}
    assert set(convolution_precisions(half).values()) == {"fp16"}


def test_preprocessing_stays_in_float32(half: onnx.ModelProto) -> None:
    """Every tensor before the single Cast is float32, and every tensor after it float16."""
    types = {info.name: info.type.tensor_type.elem_type for info in half.graph.value_info}
    nodes = list(half.graph.node)
    (cast,) = [index for index, node in enumerate(nodes) if node.output[0] == HALF_NAME]
    before = [types[name] for node in nodes[:cast] for name in node.output if name in types]
    after = [types[name] for node in nodes[cast + 1 :] for name in node.output if name in types]
    assert HALF not in before
    assert FLOAT in before
    assert FLOAT not in after
    assert len(after) > 20


def test_declared_types_equal_those_that_onnx_infers(half: onnx.ModelProto) -> None:
    bare = copy.deepcopy(half)
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=True)
    types = {info.name: info.type.tensor_type.elem_type for info in inferred.graph.value_info}
    for info in half.graph.value_info:
        assert types[info.name] == info.type.tensor_type.elem_type, info.name


def test_rounding_errors_are_as_small_as_torchs_in_half_precision(
    half: onnx.ModelProto, network: Network, contract: DetectorContract, frames: Frames
) -> None:
    """Both round to float16 and differ only in the order of summation, so their errors have a similar size."""
    images, _ = letterbox_batch(frames[:1], contract.input_size)
    session = onnxruntime.InferenceSession(half.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {INPUT: images})
    with torch.inference_mode():
        pixels = network.preprocess(torch.from_numpy(images))
        logits, deltas = network.model(pixels)
        half_logits, half_deltas = copy.deepcopy(network.model).half()(pixels.half())
    for head, exact, rounded in zip(outputs, [*logits, *deltas], [*half_logits, *half_deltas], strict=True):
        expected = exact.numpy()
        assert head.dtype == np.float16
        noise = np.sqrt(np.mean((rounded.float().numpy() - expected) ** 2))
        assert 0 < noise < 0.01 * np.abs(expected).max()
        assert np.sqrt(np.mean((head.astype(np.float32) - expected) ** 2)) < 1.5 * noise


def test_the_original_network_is_not_modified(exported: onnx.ModelProto) -> None:
    before = exported.SerializeToString(deterministic=True)
    to_half(exported)
    assert exported.SerializeToString(deterministic=True) == before


def test_a_weight_too_large_for_float16_is_refused(exported: onnx.ModelProto) -> None:
    model = copy.deepcopy(exported)
    (tensor,) = (item for item in model.graph.initializer if item.name.endswith("bbox_reg.weight"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = 70_000
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ExportError, match=r"bbox_reg\.weight: expected at most 65504 .*got 70000.*; export in fp32"):
        to_half(model)


def test_a_network_without_convolutions_is_refused(exported: onnx.ModelProto) -> None:
    model = copy.deepcopy(exported)
    kept = [node for node in model.graph.node if node.op_type != "Conv"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    with pytest.raises(ExportError, match="expected a network with convolutions, got one without"):
        to_half(model)
