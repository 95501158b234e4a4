"""INT8 networks in float16 are measured in float32, where ONNX Runtime computes what stands in them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import pytest
from onnx.reference import ReferenceEvaluator

from engines.float32 import HALF, measurable, to_float32
from engines.graph import contract_of, heads_only
from engines.letterbox import letterbox_batch
from engines.onnx_runtime import OnnxExecutor
from export.half_weights import restore_weights
from export.precision import _decibels
from export.verify import onnx_heads

Frames = list[npt.NDArray[np.uint8]]
# Of the worst head of the sample model; as ONNX Runtime optimises the file as it stands, it is 9 to 13.
LEAST = 18.0


def types_of(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}


def test_nothing_of_float16_is_left_and_no_value_changes(sample_models: dict[str, Path]) -> None:
    model = onnx.load(sample_models["int8-tensorrt"])
    twin = to_float32(model)
    assert HALF in types_of(model)
    assert HALF not in types_of(twin)
    onnx.checker.check_model(twin, full_check=True)
    for ours, theirs in zip(twin.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(ours), onnx.numpy_helper.to_array(theirs))
    assert contract_of(twin) == contract_of(model)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8-cpu"])
def test_others_are_measured_as_they_are(sample_models: dict[str, Path], name: str) -> None:
    model = onnx.load(sample_models[name])
    assert measurable(model) is model


def test_a_quantised_network_is_as_near_to_fp32_as_it_is(sample_models: dict[str, Path], frames: Frames) -> None:
    fp32, int8 = (heads_only(onnx.load(sample_models[name])) for name in ("fp32", "int8-tensorrt"))
    contract = contract_of(onnx.load(sample_models["fp32"]))
    batches = [letterbox_batch([frame], contract.input_size)[0] for frame in frames[:2]]
    found = _decibels(onnx_heads(restore_weights(fp32), batches), onnx_heads(int8, batches), contract)
    assert min(found.values()) > LEAST


def test_quantised_arithmetic_is_that_of_onnxs_own_reference() -> None:
    """A convolution between pairs in float16: ONNX Runtime on the twin, and onnx's evaluator on both."""
    generator = np.random.default_rng(0)
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "sx", "z"], ["xq"]),
        onnx.helper.make_node("DequantizeLinear", ["xq", "sx", "z"], ["xd"]),
        onnx.helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0),
        onnx.helper.make_node("Conv", ["xd", "wd"], ["c"], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Relu", ["c"], ["y"]),
    ]
    arrays: dict[str, npt.NDArray[Any]] = {
        "sx": np.array(0.02, np.float16),
        "z": np.zeros((), np.int8),
        "w": generator.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "sw": np.array([0.001, 0.002, 0.003, 0.004], np.float16),
        "zw": np.zeros(4, np.int8),
    }
    graph = onnx.helper.make_graph(
        nodes,
        "pairs",
        [onnx.helper.make_tensor_value_info("x", HALF, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", HALF, [1, 4, 8, 8])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    x = generator.normal(0, 1, (1, 3, 8, 8)).astype(np.float16)
    (exact,) = map(np.asarray, ReferenceEvaluator(to_float32(model)).run(None, {"x": x.astype(np.float32)}))
    (half,) = map(np.asarray, ReferenceEvaluator(model).run(None, {"x": x}))
    import onnxruntime

    session = onnxruntime.InferenceSession(to_float32(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {"x": x.astype(np.float32)})
    np.testing.assert_allclose(ours, exact, atol=1e-4)
    np.testing.assert_allclose(ours, half, atol=2e-2)


def test_without_onnx_it_runs_unoptimised(
    sample_models: dict[str, Path], frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base install has no onnx."""
    with_onnx = OnnxExecutor(sample_models["int8-tensorrt"])
    expected = with_onnx.result(with_onnx.submit(frames[:1]))
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "engines.float32")
    without = OnnxExecutor(sample_models["int8-tensorrt"])
    found = without.result(without.submit(frames[:1]))
    sure = expected.scores[0] > 0.5
    assert sure.sum() > 5
    # Best first in both; of what is sure the order is that of scores a hundredth apart, so each looks for its nearest.
    for box, score in zip(expected.boxes[0][sure], expected.scores[0][sure], strict=True):
        nearest = int(np.abs(found.boxes[0] - box).max(axis=1).argmin())
        assert np.abs(found.boxes[0, nearest] - box).max() < 8
        assert abs(found.scores[0, nearest] - score) < 0.1
