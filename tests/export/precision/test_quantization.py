"""Both layouts node by node, on ONNX Runtime, and through TensorRT-RTX's parser and builder."""

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
from export.precision.quantization import int8_share, multiply_adds, quantize, sensitive_convolutions
from export.precision.ranges import Ranges, collect_ranges
from export.verify import onnx_heads
from retina_edge.imaging.image_file import read_image
from retina_edge.model.config import octave_sizes
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY, contract_of, lively

Frames = list[npt.NDArray[np.uint8]]

LAYOUTS = ("tensorrt", "cpu")
# With sums in the backbone and in the pyramid.
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
def test_is_a_valid_model(models: Models, layout: str) -> None:
    onnx.checker.check_model(models[layout], full_check=True)


def test_which_convolutions_stay_as_they_are(exported: onnx.ModelProto, models: Models) -> None:
    first = next(node.name for node in exported.graph.node if node.op_type == "Conv")
    assert first.startswith("backbone.")
    levels = range(5)
    boxes = [f"head.regression_head.bbox_reg:{level}" for level in levels]
    classes = [f"head.classification_head.cls_logits:{level}" for level in levels]
    assert sorted(sensitive_convolutions(exported, "tensorrt")) == sorted([first, *boxes, *classes])
    assert sorted(sensitive_convolutions(exported, "cpu")) == sorted([first, *boxes])
    for layout, rest in (("tensorrt", "fp16"), ("cpu", "fp32")):
        kept = sensitive_convolutions(exported, layout)
        for name, precision in convolution_precisions(models[layout]).items():
            assert precision == (rest if name in kept else "int8"), name


def test_tensorrt_has_symmetric_scales_and_no_other_zero_points(models: Models) -> None:
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


def test_tensorrt_quantizes_weights_by_channel_and_loses_half_a_step(exported: onnx.ModelProto, models: Models) -> None:
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
        # Float16 comes in between, so a little more than half a step.
        assert (np.abs(steps * scale - weights) <= 0.5 * scale + 2.0**-11 * np.abs(weights)).all()
        checked += 1
    assert checked > 20


def test_tensorrt_scales_reach_the_range(models: Models, ranges: Ranges) -> None:
    values = arrays(models["tensorrt"])
    for node in models["tensorrt"].graph.node:
        if node.op_type == "QuantizeLinear":
            reach, greatest = 127 * float(values[node.input[1]]), max(map(abs, ranges[node.input[0]]))
            assert greatest <= reach <= greatest * (1 + 2.0**-9), node.input[0]


def test_tensorrt_quantizes_the_skipped_branch_of_residual_sums(models: Models) -> None:
    """One input of each sum of the backbone is dequantized, the other the output of a convolution."""
    sources = producers(models["tensorrt"])
    sums = [node for node in models["tensorrt"].graph.node if node.op_type == "Add"]
    kinds = [sorted(sources[name].op_type for name in node.input if name in sources) for node in sums]
    assert kinds.count(["Conv", "DequantizeLinear"]) == 8  # blocks of a ResNet-18
    # The pyramid's sums stay as they are.
    assert all("DequantizeLinear" not in kind for kind in kinds if "Resize" in kind)


def test_one_tensor_has_one_scale_for_all_that_read_it(models: Models) -> None:
    quantized = [node.input[0] for node in models["tensorrt"].graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized))


@pytest.mark.parametrize(("layout", "least"), [("tensorrt", 12.0), ("cpu", 18.0)])
def test_computes_nearly_the_same(
    exported: onnx.ModelProto,
    models: Models,
    contract: DetectorContract,
    images: CalibrationSet,
    layout: str,
    least: float,
) -> None:
    batch = next(images.batches(contract, 1))
    for ours, theirs in zip(heads(models[layout], batch), heads(exported, batch), strict=True):
        decibels = 10 * np.log10(np.var(theirs) / np.mean((ours - theirs) ** 2))
        assert decibels > least


def test_the_share_of_the_work(exported: onnx.ModelProto) -> None:
    """Against multiply-adds counted by hand: all but those of the convolutions kept."""
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


def test_keeping_more(exported: onnx.ModelProto, ranges: Ranges) -> None:
    name = "backbone.fpn.layer_blocks.0.0"
    for layout, rest in (("tensorrt", "fp16"), ("cpu", "fp32")):
        kept = (*sensitive_convolutions(exported, layout), name)
        model = quantize(exported, ranges, layout, kept)
        onnx.checker.check_model(model, full_check=True)
        assert {item for item, precision in convolution_precisions(model).items() if precision == rest} == set(kept)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_keeping_nothing(
    exported: onnx.ModelProto, ranges: Ranges, contract: DetectorContract, images: CalibrationSet, layout: str
) -> None:
    """The first convolution too, which in the layout for TensorRT reads what was cast to half."""
    model = quantize(exported, ranges, layout, ())
    assert set(convolution_precisions(model).values()) == {"int8"}
    assert all(np.isfinite(head).all() for head in heads(model, next(images.batches(contract, 1))))


def test_what_cannot_be_quantized_is_refused(exported: onnx.ModelProto, ranges: Ranges) -> None:
    with pytest.raises(ValueError, match="layout: expected cpu or tensorrt, got 'gpu'"):
        quantize(exported, ranges, "gpu", ())
    with pytest.raises(ValueError, match="kept: expected names of convolutions, got 'nothing'"):
        quantize(exported, ranges, "cpu", ("nothing",))
    with pytest.raises(ValueError, match=r"kept: expected all or none of \S+cls_logits:0, .*cls_logits:4, which share"):
        quantize(exported, ranges, "tensorrt", ("head.classification_head.cls_logits:1",))


def test_a_convolution_that_was_passed_over_is_an_error(
    exported: onnx.ModelProto, ranges: Ranges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a quantizer does not know an operator in front of it."""
    import export.precision.quantization

    whole = export.precision.quantization._for_cpu

    def passes_over(
        network: onnx.ModelProto, ranges: Ranges, kept: tuple[str, ...], put_back: tuple[str, ...]
    ) -> onnx.ModelProto:
        return whole(network, ranges, (*kept, "backbone.fpn.layer_blocks.0.0"), put_back)

    monkeypatch.setattr(export.precision.quantization, "_for_cpu", passes_over)
    with pytest.raises(ExportError, match=r"int8: 1 convolutions were to be .*the first of them \S+blocks\.0\.0"):
        quantize(exported, ranges, "cpu", sensitive_convolutions(exported, "cpu"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_original_stays_as_it_is(exported: onnx.ModelProto, ranges: Ranges, layout: str) -> None:
    before = exported.SerializeToString(deterministic=True)
    quantize(exported, ranges, layout, ())
    assert exported.SerializeToString(deterministic=True) == before


def test_tensorrt_reads_the_same_precisions(models: Models) -> None:
    """Parsed and built by TensorRT-RTX, which takes the types as they stand."""
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


def test_a_channel_without_weights_is_no_division_by_zero(exported: onnx.ModelProto, ranges: Ranges) -> None:
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
def test_what_is_put_back_reads_floats(exported: onnx.ModelProto, ranges: Ranges, layout: str) -> None:
    """All of them put back, nothing is quantized at all; some, only what the others read."""
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


def test_what_is_put_back_keeps_its_relu(exported: onnx.ModelProto, ranges: Ranges, frames: Frames) -> None:
    """The quantizer takes a Relu out where quantizing clips anyway; who reads in floats still needs it."""
    contract_size = tuple(dim.dim_value for dim in exported.graph.input[0].type.tensor_type.shape.dim[1:3])
    batches = [letterbox_batch(frames[:1], (contract_size[0], contract_size[1]))[0]]
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
    for put_back in ((), *((names[0],) for names in shared)):
        found = onnx_heads(quantize(exported, ranges, "cpu", always, put_back), batches)[0]
        errors.append(sum(float(((a - b) ** 2).mean() / a.var()) for a, b in zip(expected, found, strict=True)))
    assert max(errors[1:]) < 1.2 * errors[0]
