"""A deployable in another precision: what stays, what is compared, and what is refused."""

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


def test_fp16(deployable: onnx.ModelProto, frames: Frames, tmp_path: Path) -> None:
    converted, drift = convert(deployable, "fp16", images=frames)
    contract = contract_of(converted)
    assert contract == dataclass_with(contract_of(deployable), precision="fp16")
    assert set(convolution_precisions(converted).values()) == {"fp16"}
    assert QUANTIZATION_KEY not in metadata_of(converted)
    assert drift.images == 4
    assert drift.detections > 20
    assert 30 < drift.worst[1] < 100
    assert set(drift.decibels) == {f"{head}_{level}" for head in ("cls", "box") for level in range(3)}
    # It is a deployable like any other.
    onnx.save(converted, tmp_path / "half.onnx")
    with Detector(OnnxExecutor(tmp_path / "half.onnx")) as detector:
        assert len(detector(frames[0])) > 5


def dataclass_with(contract: Any, **changes: Any) -> Any:
    return dataclasses.replace(contract, **changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_int8_says_how_it_was_calibrated(
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


@pytest.mark.parametrize("batch", [None, 2])
def test_any_batch_size(
    model: RetinaNet, frames: Frames, images: CalibrationSet, tmp_path: Path, batch: int | None
) -> None:
    """The calibrator feeds a fixed batch whole, and an open one by single images."""
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    export_onnx(model, new_contract(model), source, batch=batch, images=frames)
    size, drift = convert_file(source, target, "int8", images=frames, calibration=Calibration(images, "tensorrt"))
    assert target.stat().st_size == size
    assert drift.images == len(frames)
    executor = OnnxExecutor(target)
    assert executor.batch == batch
    with Detector(executor) as detector:
        assert len(detector(frames)) == len(frames)


def test_half_weights_are_no_hindrance(model: RetinaNet, frames: Frames, tmp_path: Path) -> None:
    export_onnx(model, new_contract(model), tmp_path / "m.onnx", batch=1, images=frames, half_weights=True)
    converted, _ = convert(onnx.load(tmp_path / "m.onnx"), "fp16", images=frames)
    assert not [node for node in converted.graph.node if node.op_type == "Cast" and node.input[0].endswith(".half")]
    assert set(convolution_precisions(converted).values()) == {"fp16"}


def test_what_is_no_fp32_is_refused(deployable: onnx.ModelProto, frames: Frames, images: CalibrationSet) -> None:
    half, _ = convert(deployable, "fp16", images=frames)
    with pytest.raises(ExportError, match="expected an ONNX in fp32 to make int8 of, got one in fp16; export the"):
        convert(half, "int8", images=frames, calibration=Calibration(images, "cpu"))
    with pytest.raises(ValueError, match="calibration: expected one for int8"):
        convert(deployable, "int8", images=frames)
    with pytest.raises(ValueError, match="calibration: expected one for int8"):
        convert(deployable, "fp16", images=frames, calibration=Calibration(images, "cpu"))
    bare = copy.deepcopy(deployable)
    del bare.metadata_props[:]
    with pytest.raises(ModelFileError, match="expected the contract in the ONNX metadata"):
        convert(bare, "fp16", images=frames)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_range_that_is_far_too_narrow_is_caught(
    deployable: onnx.ModelProto,
    frames: Frames,
    images: CalibrationSet,
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Every range a hundredth of what it should be: nothing is written."""
    whole = collect_ranges

    def sabotaged(*arguments: Any, **options: Any) -> Ranges:
        ranges = whole(*arguments, **options)
        return {name: (low / 100, high / 100) for name, (low, high) in ranges.items()}

    monkeypatch.setattr(export.precision.conversion, "collect_ranges", sabotaged)
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    onnx.save(deployable, source)
    with pytest.raises(
        ExportError, match=r"raw head \w+ in int8: expected at least 6 dB .*found -?[0-5]\.\d; calibrate"
    ):
        convert_file(source, target, "int8", images=frames, calibration=Calibration(images, layout))
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_overflow_in_float16_is_caught(
    deployable: onnx.ModelProto, frames: Frames, images: CalibrationSet, precision: str
) -> None:
    """Weights fit float16 and what they compute does not."""
    model = copy.deepcopy(deployable)
    for tensor in model.graph.initializer:
        if tensor.name.endswith(("layer2.0.conv1.weight", "layer1.0.conv1.weight")):
            values = onnx.numpy_helper.to_array(tensor) * np.float32(3e4)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float32), tensor.name))
    calibration = Calibration(images, "tensorrt") if precision == "int8" else None
    with pytest.raises(ExportError, match=r"tensor \w+: expected at most 65504 to fit float16, found .*stay with fp32"):
        convert(model, precision, images=frames, calibration=calibration)


def test_a_decode_that_is_not_the_specifications_is_caught(
    deployable: onnx.ModelProto, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    import export.attach

    def other(contract: Any) -> onnx.FunctionProto:
        return decode_function(dataclass_with(contract, top_k=5))

    monkeypatch.setattr(export.attach, "decode_function", other)
    with pytest.raises(Exception, match=r"num_detections|labels|shape"):
        convert(deployable, "fp16", images=frames)
