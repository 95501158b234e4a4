"""Tests of weights stored in float16: the network computes in float32 with the rounded weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest

from engines.core.contract import DetectorContract
from export.errors import ExportError
from export.half_weights import HALF_SUFFIX, store_half


@pytest.fixture(scope="module")
def half(exported: onnx.ModelProto) -> onnx.ModelProto:
    return store_half(exported)


def test_the_file_has_half_the_size(half: onnx.ModelProto, exported: onnx.ModelProto) -> None:
    assert half.ByteSize() < 0.55 * exported.ByteSize()


def test_only_the_weights_are_rounded(half: onnx.ModelProto, exported: onnx.ModelProto) -> None:
    original, stored = initializers(exported), initializers(half)
    assert len(stored) == len(original)
    for name, value in stored.items():
        expected = original[name.removesuffix(HALF_SUFFIX)]
        if name.endswith(HALF_SUFFIX):
            expected = expected.astype(np.float16)
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)


def test_computation_stays_in_float32(
    half: onnx.ModelProto, exported: onnx.ModelProto, contract: DetectorContract
) -> None:
    """The raw heads are identical to those of a float32 network with the rounded weights."""
    rounded = copy.deepcopy(exported)
    halves = initializers(half)
    for tensor in rounded.graph.initializer:
        if tensor.name + HALF_SUFFIX in halves:
            values = halves[tensor.name + HALF_SUFFIX].astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    images = np.random.default_rng(0).integers(0, 256, (1, *contract.input_size, 3), np.uint8)
    for actual, expected in zip(heads(half, images), heads(rounded, images), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_the_original_network_is_not_modified(exported: onnx.ModelProto) -> None:
    before = exported.SerializeToString(deterministic=True)
    store_half(exported)
    assert exported.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("value", [70_000, -70_000, np.nan])
def test_a_weight_too_large_for_float16_is_refused(exported: onnx.ModelProto, value: float) -> None:
    model = copy.deepcopy(exported)
    (tensor,) = (t for t in model.graph.initializer if t.name.endswith("bbox_reg.weight"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = value
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ExportError, match=r"weight .*bbox_reg\.weight: expected at most 65504 .*got (70000|nan)"):
        store_half(model)


def initializers(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def heads(model: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[npt.NDArray[np.float32]] = session.run(None, {"images": images})
    return outputs
