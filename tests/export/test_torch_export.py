"""Tests of the exported file: its content, and that it returns the detections of the torch model."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import pytest
import torch

from engines.core.contract import DetectorContract
from engines.core.tensor_names import DOMAIN, INPUT, OUTPUTS, PARAMETERS
from engines.onnx.onnx_executor import CONTRACT_KEY, OnnxExecutor
from export.errors import ExportError
from export.torch_export import ExportReport, export_onnx
from retina_edge.detector import Detector
from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torch_executor import TorchExecutor

Frames = list[npt.NDArray[np.uint8]]

# Detections of torch and of the ONNX differ by the rounding of the convolutions: 2e-6, relative to their outputs. They
# are compared row by row: so little exchanges two boxes in NMS only if their scores are as close, and the weights are
# seeded.
PIXELS = 0.01
SCORE = 1e-5


def assert_same_as_torch(path: Path, model: RetinaNet, contract: DetectorContract, frames: Frames) -> None:
    """Check that an ONNX file and the torch model return the same detections."""
    torch_detector = Detector(TorchExecutor(model, contract, device=torch.device("cpu")))
    with Detector.load(path) as detector:
        found, wanted = (each(frames, score=contract.score_threshold) for each in (detector, torch_detector))
        for actual, expected in zip(found, wanted, strict=True):
            assert len(expected) > 20
            np.testing.assert_array_equal(actual.labels, expected.labels)
            np.testing.assert_allclose(actual.boxes, expected.boxes, rtol=0, atol=PIXELS)
            np.testing.assert_allclose(actual.scores, expected.scores, rtol=0, atol=SCORE)


def test_the_onnx_detects_what_torch_detects(
    report: ExportReport, model: RetinaNet, contract: DetectorContract, frames: Frames
) -> None:
    assert_same_as_torch(report.path, model, contract, frames)


def test_an_open_batch_size_detects_what_torch_detects(
    model: RetinaNet, contract: DetectorContract, frames: Frames, tmp_path: Path
) -> None:
    """Four frames run in one batch, whereas a fixed batch of one runs them one by one."""
    report = export_onnx(model, contract, tmp_path / "dynamic.onnx", batch=None, images=frames)
    assert_same_as_torch(report.path, model, contract, frames)
    executor = OnnxExecutor(report.path)
    assert executor.batch is None
    for size in (1, 3):
        result = executor.infer(np.zeros((size, *contract.input_size, 3), np.uint8))
        assert len(result.num_detections) == size


def test_a_fixed_batch_of_two_detects_what_torch_detects(
    model: RetinaNet, contract: DetectorContract, frames: Frames, tmp_path: Path
) -> None:
    """With three frames the second batch is not full."""
    report = export_onnx(model, contract, tmp_path / "two.onnx", batch=2, images=frames[:3])
    assert OnnxExecutor(report.path).batch == 2
    assert_same_as_torch(report.path, model, contract, frames[:3])


def test_the_report_describes_the_export(report: ExportReport, contract: DetectorContract) -> None:
    assert report.size == report.path.stat().st_size
    assert report.batch == 1
    agreement = report.agreement
    assert agreement.images == 4
    assert agreement.detections > 80
    assert dataclasses.replace(report.contract, produced_by={}) == contract


def test_the_file_carries_the_contract(report: ExportReport) -> None:
    executor = OnnxExecutor(report.path)
    assert executor.contract == report.contract
    versions = executor.contract.produced_by
    for package in ("torch", "onnx", "onnxruntime", "retina-edge"):
        assert versions[package] == importlib.metadata.version(package)


def test_the_file_holds_network_decode_nms_and_contract(report: ExportReport) -> None:
    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    assert [item.name for item in model.graph.input] == [INPUT]
    assert tuple(item.name for item in model.graph.output) == OUTPUTS
    assert [(node.domain, node.op_type) for node in model.graph.node[-2:]] == [
        (DOMAIN, "Decode"),
        (DOMAIN, "NMS"),
    ]
    assert {function.name for function in model.functions} == {"Decode", "NMS"}
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 18), (DOMAIN, 1)}
    assert [prop.key for prop in model.metadata_props] == [CONTRACT_KEY]
    assert PARAMETERS in {tensor.name for tensor in model.graph.initializer}


def test_the_file_contains_no_path_of_this_machine(report: ExportReport) -> None:
    content = report.path.read_bytes()
    for path in (str(Path.cwd()), os.path.dirname(torch.__file__), "site-packages"):
        assert path.encode() not in content


def test_the_model_is_not_modified(
    model: RetinaNet, contract: DetectorContract, frames: Frames, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    try:
        export_onnx(model, contract, tmp_path / "m.onnx", batch=1, images=frames[:1], half_weights=True)
        assert model.training
    finally:
        model.eval()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_contract_of_another_model_is_refused(
    model: RetinaNet, contract: DetectorContract, frames: Frames, tmp_path: Path
) -> None:
    other = dataclasses.replace(contract, class_names=("a",), category_ids=(1,))
    with pytest.raises(ExportError, match="the model's heads do not fit the contract"):
        export_onnx(model, other, tmp_path / "m.onnx", batch=1, images=frames)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch: expected at least 1"),
        ({"images": []}, "images: expected at least one"),
        ({"images": [np.zeros((4, 4), np.float32)]}, "expected a frame as OpenCV delivers it"),
    ],
)
def test_wrong_arguments_are_refused(
    model: RetinaNet,
    contract: DetectorContract,
    frames: Frames,
    tmp_path: Path,
    arguments: dict[str, object],
    message: str,
) -> None:
    complete = {"batch": 1, "images": frames, **arguments}
    with pytest.raises(ValueError, match=message):
        export_onnx(model, contract, tmp_path / "m.onnx", **complete)  # type: ignore[arg-type]
