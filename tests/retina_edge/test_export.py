"""``retina-edge export``: its file, its output and its errors."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torchvision.ops import box_iou

import export.torch_export
from engines.core.contract import DetectorContract
from engines.core.tensor_names import QUANTIZATION_KEY
from engines.onnx.deployable import metadata_of
from engines.onnx.onnx_executor import OnnxExecutor
from export.errors import ExportError
from export.torch_export import ExportReport
from export.verify import Agreement
from retina_edge import export as verb
from retina_edge.detector import Detector
from retina_edge.model.checkpoint import Checkpoint, load_checkpoint
from retina_edge.model.retinanet import RetinaNet
from tests.models import TINY, contract_of, lively


class Recorder:
    """A replacement for ``export_onnx`` that only records its arguments."""

    def __init__(self) -> None:
        self.contracts: list[DetectorContract] = []
        self.batch: int | None = 0
        self.images: list[npt.NDArray[np.uint8]] = []
        self.half_weights = False
        self.detections = 5

    def __call__(
        self,
        model: RetinaNet,
        contract: DetectorContract,
        path: Path,
        *,
        batch: int | None,
        images: list[npt.NDArray[np.uint8]],
        half_weights: bool,
    ) -> ExportReport:
        assert not model.training
        self.contracts.append(contract)
        self.batch, self.images, self.half_weights = batch, images, half_weights
        agreement = Agreement(1e-6, 2e-6, 3e-5, 4e-7, self.detections, len(images))
        return ExportReport(path, 1_234_567, batch, contract, agreement)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    stand_in = Recorder()
    monkeypatch.setattr(export.torch_export, "export_onnx", stand_in)
    return stand_in


def test_a_checkpoint_is_exported_for_another_input_size(
    checkpoint: Path, frames: list[npt.NDArray[np.uint8]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "folder" / "tiny.onnx"
    assert verb.main([str(checkpoint), "-o", str(output), "--input", "192x224"]) == 0
    printed = capsys.readouterr().out
    assert f"{output}  {output.stat().st_size / 1e6:.1f} MB, batch 1, input 192x224, fp32\n" in printed
    assert "verified on 4 images with " in printed
    executor = OnnxExecutor(output)
    assert executor.contract.input_size == (192, 224)
    assert executor.contract.levels[0].feature_size == (24, 28)
    with Detector(executor) as deployed, Detector.load(checkpoint) as trained:
        assert deployed.contract.class_names == trained.contract.class_names
        assert len(deployed(frames[0], score=deployed.score_threshold)) > 20
    assert [path.name for path in output.parent.iterdir()] == ["tiny.onnx"]


def test_the_default_is_a_batch_of_one_and_float32_weights(checkpoint: Path, recorder: Recorder) -> None:
    assert verb.main([str(checkpoint), "-o", "m.onnx"]) == 0
    assert (recorder.batch, recorder.half_weights) == (1, False)
    # Three windows of the sample image and an image of noise.
    assert [image.shape for image in recorder.images] == [(128, 160, 3)] * 4
    assert len({image.tobytes() for image in recorder.images}) == 4


@pytest.mark.parametrize(("text", "batch"), [("dynamic", None), ("8", 8)])
def test_batch_and_half_weights_are_passed_on(
    checkpoint: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str], text: str, batch: int | None
) -> None:
    assert verb.main([str(checkpoint), "-o", "m.onnx", "--batch", text, "--half-weights"]) == 0
    assert (recorder.batch, recorder.half_weights) == (batch, True)
    assert f"m.onnx  1.2 MB, batch {text}, input 128x160, fp32, weights stored in fp16" in capsys.readouterr().out


def test_a_model_without_detections_is_reported(
    checkpoint: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.detections = 0
    assert verb.main([str(checkpoint), "-o", "m.onnx"]) == 0
    assert "nothing was detected in these images" in capsys.readouterr().out


def test_images_to_verify_with_are_read_from_files_and_folders(
    checkpoint: Path, recorder: Recorder, treecrowns: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    for name, value in (("b.PNG", 20), ("a.jpg", 10)):
        assert cv2.imwrite(str(tmp_path / name), np.full((5, 7, 3), value, np.uint8))
    file = next((treecrowns / "images").glob("*.jpg"))
    assert verb.main([str(checkpoint), "-o", "m.onnx", "--images", str(tmp_path), str(file)]) == 0
    assert [image[0, 0, 0] for image in recorder.images[:2]] == [10, 20]
    assert recorder.images[2].shape == (400, 400, 3)
    assert verb.main([str(checkpoint), "-o", "m.onnx", "--images", str(treecrowns / "images")]) == 0
    assert len(recorder.images) == 8


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jpg", None, "missing.jpg: cannot be read"),
        ("text.jpg", b"text", "text.jpg: expected an image that OpenCV can read"),
        ("", None, "expected images to verify with, found none"),
    ],
)
def test_unreadable_images_to_verify_with_are_refused(
    checkpoint: Path,
    recorder: Recorder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes | None,
    message: str,
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert verb.main([str(checkpoint), "-o", "m.onnx", "--images", str(path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not recorder.images


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ExportError("boxes: expected less"), 1, "error: boxes: expected less"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_and_ctrl_c_have_an_exit_code_and_a_message(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(export.torch_export, "export_onnx", fail)
    assert verb.main([str(checkpoint), "-o", "m.onnx"]) == code
    assert capsys.readouterr().err == message + "\n"


@pytest.mark.parametrize("content", [None, b"no checkpoint"], ids=["missing", "corrupt"])
def test_a_missing_or_corrupt_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    assert verb.main([str(path), "-o", str(tmp_path / "m.onnx")]) == 1
    assert "model.pt: expected a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "expected a number of images or 'dynamic', got '0'"),
        (["--batch", "some"], "expected a number of images or 'dynamic', got 'some'"),
        (["--input", "200x200"], "multiples of 32"),
    ],
)
def test_a_wrong_option_exits_2(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        verb.main(["model.pt", "-o", "m.onnx", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_another_input_size_has_another_pyramid(checkpoint: Path, recorder: Recorder) -> None:
    assert verb.main([str(checkpoint), "-o", "m.onnx", "--input", "352x96"]) == 0
    (contract,) = recorder.contracts
    levels = [(level.feature_size, level.stride) for level in contract.levels]
    assert levels == [((44, 12), (8, 8)), ((22, 6), (16, 16)), ((11, 3), (32, 32))]
    assert contract.levels[0].anchor_sizes == (32, 40, 50)


def test_thresholds_are_chosen_at_export(checkpoint: Path, recorder: Recorder) -> None:
    options = ["--score-threshold", "0.4", "--agnostic", "--top-k", "77", "--max-detections", "9"]
    assert verb.main([str(checkpoint), "-o", "m.onnx", *options]) == 0
    (contract,) = recorder.contracts
    assert (contract.score_threshold, contract.top_k, contract.max_detections) == (0.4, 77, 9)
    assert contract.iou_threshold == 0.5
    assert contract.agnostic


@pytest.mark.parametrize(("options", "expected"), [([], True), (["--agnostic"], True), (["--no-agnostic"], False)])
def test_the_kind_of_nms_is_the_checkpoints_unless_given(
    checkpoint: Path, recorder: Recorder, tmp_path: Path, options: list[str], expected: bool
) -> None:
    loaded, agnostic = load_checkpoint(checkpoint), tmp_path / "agnostic.pt"
    dataclasses.replace(loaded, contract=dataclasses.replace(loaded.contract, agnostic=True)).save(agnostic)
    assert verb.main([str(agnostic), "-o", str(tmp_path / "m.onnx"), *options]) == 0
    assert [contract.agnostic for contract in recorder.contracts] == [expected]


@pytest.mark.slow
def test_an_export_with_class_agnostic_nms_has_no_overlapping_boxes(
    tmp_path: Path, frames: list[npt.NDArray[np.uint8]]
) -> None:
    model = lively(RetinaNet(dataclasses.replace(TINY, num_classes=3)))
    several = tmp_path / "several.pt"
    Checkpoint(contract_of(model), model.config, dict(model.state_dict())).save(several)
    largest = {}
    for option in ("--no-agnostic", "--agnostic"):
        output = tmp_path / f"{option}.onnx"
        assert verb.main([str(several), "-o", str(output), option]) == 0
        executor = OnnxExecutor(output)
        result = executor.result(executor.submit(frames[:1]))
        boxes = torch.from_numpy(result.boxes[0, : result.num_detections[0]])
        overlap = box_iou(boxes, boxes).nan_to_num(0)  # boxes without area overlap nothing
        largest[option] = float(overlap.fill_diagonal_(0).max())
    assert largest["--no-agnostic"] > 0.6
    assert largest["--agnostic"] <= 0.5


def test_a_threshold_out_of_range_is_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb.main([str(checkpoint), "-o", "m.onnx", "--score-threshold", "1.5"]) == 1
    assert "score_threshold: expected 0 <= value < 1, got 1.5" in capsys.readouterr().err


def test_an_fp16_export_is_compared_with_fp32(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "half.onnx"
    assert verb.main([str(checkpoint), "-o", str(output), "--precision", "fp16"]) == 0
    printed = capsys.readouterr().out
    assert f"half.onnx  {output.stat().st_size / 1e6:.1f} MB, batch 1, input 128x160, fp16" in printed
    assert re.search(r"fp16 against fp32: .* signal-to-noise ratio of [\d.]+ dB \(38 to 73 dB are usual;", printed)
    assert OnnxExecutor(output).contract.precision == "fp16"


@pytest.mark.parametrize(
    ("options", "layout"), [([], "cpu"), pytest.param(["--for", "tensorrt"], "tensorrt", marks=pytest.mark.slow)]
)
def test_an_int8_export_is_calibrated_for_its_layout(
    checkpoint: Path,
    tmp_path: Path,
    treecrowns: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    layout: str,
) -> None:
    output, cache = tmp_path / "int8.onnx", tmp_path / "cache"
    images = str(treecrowns / "images")
    command = [str(checkpoint), "-o", str(output), "--precision", "int8", "--images", images, *options]
    command += ["--calibration", images, "--calibration-cache", str(cache), "--calibrator", "percentile"]
    assert verb.main(command) == 0
    printed = capsys.readouterr()
    _, compared, advice, verified = printed.out.splitlines()
    assert re.fullmatch(r"int8 against fp32: \d+ detections, fp32 has \d+; .* \(22 to 38 dB are usual; .*\)", compared)
    assert f"retina-edge evaluate {output} VAL.json --images DIR --against {checkpoint}" in advice
    assert verified.startswith("verified on ")
    assert (
        printed.err == "calibration: only 16 images: ranges from fewer than 64 images depend on the choice of images\n"
    )
    record = json.loads(metadata_of(onnx.load(output))[QUANTIZATION_KEY])
    assert (record["layout"], record["calibrator"]) == (layout, "percentile")
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "calibration: expected images for int8, got none"),
        (["--calibration", "."], "calibration: expected a conversion to int8, got precision fp32"),
        (["--for", "cpu"], "--for: expected --precision int8, got fp32; leave --for out"),
        (["--half-weights", "--precision", "fp16"], "half_weights: expected precision fp32, got fp16; leave it out"),
    ],
)
def test_an_option_of_another_precision_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert verb.main([str(checkpoint), "-o", str(tmp_path / "m.onnx"), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())
