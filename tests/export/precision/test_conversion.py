"""Tests of conversions to FP16 and INT8: content of the converted model, comparison with FP32, and refused inputs."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

import export.precision.conversion
from engines.core.contract import DetectorContract
from engines.core.errors import ModelFileError
from engines.core.tensor_names import QUANTIZATION_KEY
from engines.onnx.deployable import contract_of, convolution_precisions, metadata_of
from engines.onnx.onnx_executor import OnnxExecutor
from export.errors import ExportError
from export.functions import decode_function
from export.precision.calibration import CalibrationSet, audit
from export.precision.conversion import Calibration, convert, convert_file
from export.precision.ranges import Ranges, collect_ranges
from export.torch_export import ExportReport, export_onnx
from retina_edge.detector import Detector
from retina_edge.imaging.image_file import read_image
from retina_edge.model.retinanet import RetinaNet
from tests.models import contract_of as new_contract

Frames = list[npt.NDArray[np.uint8]]
LAYOUTS = ("tensorrt", "cpu")


@pytest.fixture(scope="module")
def deployable(report: ExportReport) -> onnx.ModelProto:
    return onnx.load(report.path)


@pytest.fixture(scope="module")
def images(treecrowns: Path) -> CalibrationSet:
    return audit(list((treecrowns / "images").iterdir()), read_image)


def test_fp16_converts_every_convolution(deployable: onnx.ModelProto, frames: Frames, tmp_path: Path) -> None:
    converted, drift = convert(deployable, "fp16", images=frames)
    contract = contract_of(converted)
    assert contract == dataclasses.replace(contract_of(deployable), precision="fp16")
    assert set(convolution_precisions(converted).values()) == {"fp16"}
    assert QUANTIZATION_KEY not in metadata_of(converted)
    assert drift.images == 4
    assert drift.detections > 20
    assert 30 < drift.worst[1] < 100
    assert set(drift.decibels) == {f"{head}_{level}" for head in ("cls", "box") for level in range(3)}
    # The converted model is a deployable ONNX like any other.
    onnx.save(converted, tmp_path / "half.onnx")
    with Detector(OnnxExecutor(tmp_path / "half.onnx")) as detector:
        assert len(detector(frames[0], score=detector.score_threshold)) > 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_int8_records_how_it_was_calibrated(
    deployable: onnx.ModelProto, frames: Frames, images: CalibrationSet, layout: str
) -> None:
    told: list[tuple[int, int]] = []
    calibration = Calibration(images, layout, "percentile", progress=lambda done, count: told.append((done, count)))
    converted, _ = convert(deployable, "int8", images=frames, calibration=calibration)
    assert told[-1] == (16, 16)
    record = json.loads(metadata_of(converted)[QUANTIZATION_KEY])
    precisions = convolution_precisions(converted)
    assert record["layout"] == layout
    assert (record["calibrator"], record["images"], record["digest"]) == ("percentile", 16, images.digest)
    assert record["findings"] == list(images.findings) != []
    assert record["convolutions"] == len(precisions)
    assert record["quantized"] == list(precisions.values()).count("int8")
    assert set(record["kept"]) == {name for name, precision in precisions.items() if precision != "int8"}
    assert 0.3 < record["share"] < 1


@pytest.mark.parametrize("batch", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_int8_keeps_an_open_or_fixed_batch_size(
    model: RetinaNet, frames: Frames, images: CalibrationSet, tmp_path: Path, batch: int | None
) -> None:
    """The calibrator feeds batches of a fixed size, and single images if the size is open."""
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    export_onnx(model, new_contract(model), source, batch=batch, images=frames)
    size, drift = convert_file(source, target, "int8", images=frames, calibration=Calibration(images, "tensorrt"))
    assert target.stat().st_size == size
    assert drift.images == len(frames)
    executor = OnnxExecutor(target)
    assert executor.batch == batch
    with Detector(executor) as detector:
        assert len(detector(frames)) == len(frames)


def test_an_onnx_with_half_weights_can_be_converted(model: RetinaNet, frames: Frames, tmp_path: Path) -> None:
    export_onnx(model, new_contract(model), tmp_path / "m.onnx", batch=1, images=frames, half_weights=True)
    converted, _ = convert(onnx.load(tmp_path / "m.onnx"), "fp16", images=frames)
    assert not [node for node in converted.graph.node if node.op_type == "Cast" and node.input[0].endswith(".half")]
    assert set(convolution_precisions(converted).values()) == {"fp16"}


def test_wrong_inputs_of_a_conversion_are_refused(
    deployable: onnx.ModelProto, frames: Frames, images: CalibrationSet
) -> None:
    half, _ = convert(deployable, "fp16", images=frames)
    with pytest.raises(ExportError, match="to convert to int8, got one in fp16; build from it as it is"):
        convert(half, "int8", images=frames, calibration=Calibration(images, "cpu"))
    with pytest.raises(ValueError, match="calibration: expected a calibration for int8"):
        convert(deployable, "int8", images=frames)
    with pytest.raises(ValueError, match="calibration: expected a calibration for int8"):
        convert(deployable, "fp16", images=frames, calibration=Calibration(images, "cpu"))
    bare = copy.deepcopy(deployable)
    del bare.metadata_props[:]
    with pytest.raises(ModelFileError, match="expected the contract in the ONNX metadata"):
        convert(bare, "fp16", images=frames)


@pytest.mark.parametrize("layout", ["tensorrt", pytest.param("cpu", marks=pytest.mark.slow)])
def test_ranges_that_are_far_too_narrow_are_detected(
    deployable: onnx.ModelProto,
    frames: Frames,
    images: CalibrationSet,
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With every range cut to a hundredth, nothing is written."""

    def sabotaged(*arguments: Any, **options: Any) -> Ranges:
        ranges = collect_ranges(*arguments, **options)
        return {name: (low / 100, high / 100) for name, (low, high) in ranges.items()}

    monkeypatch.setattr(export.precision.conversion, "collect_ranges", sabotaged)
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    onnx.save(deployable, source)
    with pytest.raises(
        ExportError, match=r"raw head \w+ in int8: expected .* at least 6 dB .*got -?[0-5]\.\d; calibrate"
    ):
        convert_file(source, target, "int8", images=frames, calibration=Calibration(images, layout))
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_overflow_in_float16_is_detected(
    deployable: onnx.ModelProto, frames: Frames, images: CalibrationSet, precision: str
) -> None:
    """The weights fit float16, but the activations do not."""
    model = copy.deepcopy(deployable)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("layer2.0.conv1.weight", "layer1.0.conv1.weight")):
            values = onnx.numpy_helper.to_array(tensor) * np.float32(3e4)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    calibration = Calibration(images, "tensorrt") if precision == "int8" else None
    with pytest.raises(ExportError, match=r"tensor \w+: expected at most 65504 to fit float16, got .*stay with fp32"):
        convert(model, precision, images=frames, calibration=calibration)


def test_a_decode_that_differs_from_the_specification_is_detected(
    deployable: onnx.ModelProto, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    import export.attach

    def other(contract: DetectorContract) -> onnx.FunctionProto:
        return decode_function(dataclasses.replace(contract, top_k=5))

    monkeypatch.setattr(export.attach, "decode_function", other)
    with pytest.raises(Exception, match=r"num_detections|labels|shape"):
        convert(deployable, "fp16", images=frames)
