"""Tests of both INT8 layouts: node by node, on ONNX Runtime, and with TensorRT-RTX's parser and builder."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import tensorrt_rtx
import torch

from engines.core.contract import DetectorContract
from engines.core.letterbox import letterbox_batch
from engines.core.tensor_names import INPUT
from engines.onnx.deployable import convolution_precisions
from engines.tensorrt.layer_precision import convolutions
from export.errors import ExportError
from export.network import Network, export_network
from export.precision.calibration import CalibrationSet, audit
from export.precision.convolutions import int8_share, multiply_adds, sensitive_convolutions
from export.precision.quantization import quantize
from export.precision.ranges import Ranges, collect_ranges
from export.verify import onnx_heads
from retina_edge.imaging.image_file import read_image
from retina_edge.model.config import octave_sizes
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY, contract_of, lively

Frames = list[npt.NDArray[np.uint8]]

LAYOUTS = ("tensorrt", "cpu")
# A model with sums in the backbone and in the pyramid.
CONFIG = dataclasses.replace(
    TINY, num_classes=3, backbone_levels=(3, 4, 5), anchor_sizes=octave_sizes((16, 32, 64, 128, 256))
)
Models = dict[str, onnx.ModelProto]


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    torch.manual_seed(0)
    return lively(RetinaNet(CONFIG))


@pytest.fixture(scope="module")
def contract(model: RetinaNet) -> DetectorContract:
    return contract_of(model)


@pytest.fixture(scope="module")
def exported(model: RetinaNet, contract: DetectorContract) -> onnx.ModelProto:
    return export_network(Network(model, contract).eval(), contract, batch=1)


@pytest.fixture(scope="module")
def images(treecrowns: Path) -> CalibrationSet:
    return audit(list((treecrowns / "images").iterdir()), read_image)


@pytest.fixture(scope="module")
def ranges(exported: onnx.ModelProto, contract: DetectorContract, images: CalibrationSet) -> Ranges:
    return collect_ranges(exported, contract, images, calibrator="minmax")


@pytest.fixture(scope="module")
def models(exported: onnx.ModelProto, ranges: Ranges) -> Models:
    return {layout: quantize(exported, ranges, layout, sensitive_convolutions(exported, layout)) for layout in LAYOUTS}


def arrays(model: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def heads(model: onnx.ModelProto, batch: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [head.astype(np.float32) for head in session.run(None, {INPUT: batch})]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_quantized_model_is_valid(models: Models, layout: str) -> None:
    onnx.checker.check_model(models[layout], full_check=True)


def test_the_first_and_the_last_convolutions_are_kept(exported: onnx.ModelProto, models: Models) -> None:
    first = next(node.name for node in exported.graph.node if node.op_type == "Conv")
    assert first.startswith("backbone.")
    levels = range(5)
    boxes = [f"head.regression_head.bbox_reg:{level}" for level in levels]
    classes = [f"head.classification_head.cls_logits:{level}" for level in levels]
    assert sorted(sensitive_convolutions(exported, "tensorrt")) == sorted([first, *boxes, *classes])
    assert sorted(sensitive_convolutions(exported, "cpu")) == sorted([first, *boxes])
    for layout, floats in (("tensorrt", "fp16"), ("cpu", "fp32")):
        kept = sensitive_convolutions(exported, layout)
        for name, precision in convolution_precisions(models[layout]).items():
            assert precision == (floats if name in kept else "int8"), name


def test_tensorrt_has_float16_scales_and_zero_points_of_0(models: Models) -> None:
    values = arrays(models["tensorrt"])
    nodes = [node for node in models["tensorrt"].graph.node if "Quantize" in node.op_type or "quantize" in node.name]
    assert {node.op_type for node in nodes} == {"QuantizeLinear", "DequantizeLinear"}
    for node in nodes:
        _, scale, zero = node.input
        assert values[scale].dtype == np.float16
        assert values[zero].dtype == np.int8
        assert not values[zero].any()
        assert (values[scale] > 0).all()


def test_cpu_has_uint8_activations_and_int8_weights(models: Models) -> None:
    values = arrays(models["cpu"])
    for node in models["cpu"].graph.node:
        if node.op_type == "QuantizeLinear":
            assert values[node.input[2]].dtype == np.uint8
            assert values[node.input[1]].dtype == np.float32


def test_tensorrt_quantizes_weights_per_channel_within_half_a_step(exported: onnx.ModelProto, models: Models) -> None:
    before, after = arrays(exported), arrays(models["tensorrt"])
    sources = producers(models["tensorrt"])
    checked = 0
    for node in models["tensorrt"].graph.node:
        source = sources.get(node.input[1]) if node.op_type == "Conv" else None
        if source is None:
            continue
        steps, scale = after[source.input[0]], after[source.input[1]].astype(np.float64).reshape(-1, 1, 1, 1)
        weights = before[source.input[0].removesuffix(".int8")]
        assert steps.shape == weights.shape
        assert scale.shape[0] == weights.shape[0]
        assert np.abs(steps.astype(int)).max() <= 127
        # The weights are rounded to float16 first, so the error is a little more than half a step.
        assert (np.abs(steps * scale - weights) <= 0.5 * scale + 2.0**-11 * np.abs(weights)).all()
        checked += 1
    assert checked > 20


def test_tensorrt_scales_cover_the_range(models: Models, ranges: Ranges) -> None:
    values = arrays(models["tensorrt"])
    for node in models["tensorrt"].graph.node:
        if node.op_type == "QuantizeLinear":
            reach, largest = 127 * float(values[node.input[1]]), max(map(abs, ranges[node.input[0]]))
            assert largest <= reach <= largest * (1 + 2.0**-9), node.input[0]


def test_tensorrt_quantizes_the_skip_connection_of_residual_sums(models: Models) -> None:
    """In each sum of the backbone, one input is dequantized and the other is the output of a convolution."""
    sources = producers(models["tensorrt"])
    sums = [node for node in models["tensorrt"].graph.node if node.op_type == "Add"]
    kinds = [sorted(sources[name].op_type for name in node.input if name in sources) for node in sums]
    assert kinds.count(["Conv", "DequantizeLinear"]) == 8  # the blocks of a ResNet-18
    # The sums of the pyramid are not quantized.
    assert all("DequantizeLinear" not in kind for kind in kinds if "Resize" in kind)


def test_all_readers_of_a_tensor_share_one_scale(models: Models) -> None:
    quantized = [node.input[0] for node in models["tensorrt"].graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized))


@pytest.mark.parametrize(("layout", "least"), [("tensorrt", 12.0), ("cpu", 18.0)])
def test_int8_has_little_noise(
    exported: onnx.ModelProto,
    models: Models,
    contract: DetectorContract,
    images: CalibrationSet,
    layout: str,
    least: float,
) -> None:
    batch = next(images.batches(contract, 1))
    for actual, expected in zip(heads(models[layout], batch), heads(exported, batch), strict=True):
        decibels = 10 * np.log10(np.var(expected) / np.mean((actual - expected) ** 2))
        assert decibels > least


def test_the_share_of_int8_equals_a_count_by_hand(exported: onnx.ModelProto) -> None:
    """The share is that of all multiply-adds except those of kept convolutions."""
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*exported.graph.value_info, *exported.graph.output)
    }
    weights = arrays(exported)
    work = {}
    for node in exported.graph.node:
        if node.op_type == "Conv":
            _, channels, height, width = shapes[node.output[0]]
            work[node.name] = channels * height * width * weights[node.input[1]][0].size
    kept = sensitive_convolutions(exported, "tensorrt")
    expected = 1 - sum(work[name] for name in kept) / sum(work.values())
    assert multiply_adds(exported) == work
    assert int8_share(work, kept) == pytest.approx(expected, abs=1e-12)
    assert int8_share(work, ()) == 1.0
    assert 0.5 < expected < 1


def test_further_convolutions_can_be_kept(exported: onnx.ModelProto, ranges: Ranges) -> None:
    name = "backbone.fpn.layer_blocks.0.0"
    for layout, floats in (("tensorrt", "fp16"), ("cpu", "fp32")):
        kept = (*sensitive_convolutions(exported, layout), name)
        model = quantize(exported, ranges, layout, kept)
        onnx.checker.check_model(model, full_check=True)
        assert {item for item, precision in convolution_precisions(model).items() if precision == floats} == set(kept)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_kept_convolutions_everything_is_int8(
    exported: onnx.ModelProto, ranges: Ranges, contract: DetectorContract, images: CalibrationSet, layout: str
) -> None:
    """In the layout for TensorRT the first convolution reads the output of the Cast to float16."""
    model = quantize(exported, ranges, layout, ())
    assert set(convolution_precisions(model).values()) == {"int8"}
    assert all(np.isfinite(head).all() for head in heads(model, next(images.batches(contract, 1))))


def test_wrong_arguments_are_refused(exported: onnx.ModelProto, ranges: Ranges) -> None:
    with pytest.raises(ValueError, match="layout: expected cpu or tensorrt, got 'gpu'"):
        quantize(exported, ranges, "gpu", ())
    with pytest.raises(ValueError, match="kept: expected names of convolutions, got 'nothing'"):
        quantize(exported, ranges, "cpu", ("nothing",))
    with pytest.raises(ValueError, match=r"kept: expected all or none of \S+cls_logits:0, .*cls_logits:4, which share"):
        quantize(exported, ranges, "tensorrt", ("head.classification_head.cls_logits:1",))


def test_a_convolution_that_the_quantizer_skips_is_an_error(
    exported: onnx.ModelProto, ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quantizer may skip a convolution because of an unknown operator before it."""
    import export.precision.quantization

    original = export.precision.quantization._for_cpu

    def skip_one(
        network: onnx.ModelProto, ranges: Ranges, kept: tuple[str, ...], fallback: tuple[str, ...]
    ) -> onnx.ModelProto:
        return original(network, ranges, (*kept, "backbone.fpn.layer_blocks.0.0"), fallback)

    monkeypatch.setattr(export.precision.quantization, "_for_cpu", skip_one)
    with pytest.raises(ExportError, match=r"int8: .* got 1 that are not; the first is \S+blocks\.0\.0"):
        quantize(exported, ranges, "cpu", sensitive_convolutions(exported, "cpu"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_original_network_is_not_modified(exported: onnx.ModelProto, ranges: Ranges, layout: str) -> None:
    before = exported.SerializeToString(deterministic=True)
    quantize(exported, ranges, layout, ())
    assert exported.SerializeToString(deterministic=True) == before


def test_tensorrt_rtx_parses_the_same_precisions(models: Models) -> None:
    """TensorRT-RTX parses and builds a strongly typed network, with the types in the ONNX."""
    trt = tensorrt_rtx
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    assert parser.parse(models["tensorrt"].SerializeToString()), parser.get_error(0).desc()
    assert convolutions(network) == convolution_precisions(models["tensorrt"])
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    assert builder.build_serialized_network(network, config) is not None


def test_a_channel_of_zero_weights_gives_no_division_by_zero(exported: onnx.ModelProto, ranges: Ranges) -> None:
    model = copy.deepcopy(exported)
    tensor = next(item for item in model.graph.initializer if item.name.endswith("layer1.0.conv1.weight"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0] = 0
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    quantized = arrays(quantize(model, ranges, "tensorrt", ()))
    name = tensor.name
    assert quantized[f"{name}.scale"][0] > 0
    assert not quantized[f"{name}.int8"][0].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convolutions_that_fall_back_read_floats(exported: onnx.ModelProto, ranges: Ranges, layout: str) -> None:
    """If all convolutions fall back, nothing is quantized; if one does, only the inputs of the others are quantized."""
    always = sensitive_convolutions(exported, layout)
    others = tuple(node.name for node in exported.graph.node if node.op_type == "Conv" and node.name not in always)
    nothing = quantize(exported, ranges, layout, (), (*always, *others))
    assert not any(node.op_type == "QuantizeLinear" for node in nothing.graph.node)
    chosen = next(name for name in others if name.endswith("layer1.0.conv2"))
    model = quantize(exported, ranges, layout, always, (chosen,))
    producers = {output: node for node in model.graph.node for output in node.output}
    reads = {node.name: producers[node.input[0]].op_type for node in model.graph.node if node.op_type == "Conv"}
    assert reads[chosen] == "Relu"
    assert {reads[name] for name in others if name != chosen} == {"DequantizeLinear"}
    assert {name for name, precision in convolution_precisions(model).items() if precision != "int8"} == {
        *always,
        chosen,
    }


def test_convolutions_that_fall_back_keep_their_relu(
    exported: onnx.ModelProto, ranges: Ranges, contract: DetectorContract, frames: Frames
) -> None:
    """The quantizer removes a Relu if quantization clips to zero anyway. A convolution that reads floats needs it."""
    batches = [letterbox_batch(frames[:1], contract.input_size)[0]]
    expected = onnx_heads(exported, batches)[0]
    always = sensitive_convolutions(exported, "cpu")
    read: dict[str, list[str]] = {}
    for node in exported.graph.node:
        if node.op_type == "Conv" and node.name not in always:
            read.setdefault(node.input[0], []).append(node.name)
    relus = {node.output[0] for node in exported.graph.node if node.op_type == "Relu"}
    shared = [names for tensor, names in read.items() if tensor in relus and len(names) > 1]
    assert shared
    errors = []
    for fallback in ((), *((names[0],) for names in shared)):
        actual = onnx_heads(quantize(exported, ranges, "cpu", always, fallback), batches)[0]
        errors.append(sum(float(((a - b) ** 2).mean() / a.var()) for a, b in zip(expected, actual, strict=True)))
    assert max(errors[1:]) < 1.2 * errors[0]
