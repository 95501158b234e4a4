"""``Detector``: frames of any size in, boxes in frame pixels out, for any batch size of the executor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.core.errors import DeviceError, ModelFileError
from retina_edge import Detections, Detector
from retina_edge.assets import MODEL
from tests.stand_in import StandIn, contract, detector, patch_frame

SIZES = ((64, 96), (240, 320), (719, 1281), (300, 100), (33, 400))
CORNERS = ((8, 8), (100, 40), (640, 300), (30, 200), (200, 4))
SIDE = 24
# Tolerance of boxes: one input pixel of the stand-in, in frame pixels.
TOLERANCE = 13.4


def frames() -> list[Any]:
    return [patch_frame(size, corner, SIDE) for size, corner in zip(SIZES, CORNERS, strict=True)]


def check(detections: Detections, corner: tuple[int, int]) -> None:
    """Check that the only detection is the patch at a corner."""
    assert len(detections) == 1
    expected = [corner[0], corner[1], corner[0] + SIDE, corner[1] + SIDE]
    assert np.abs(detections.boxes[0] - expected).max() <= TOLERANCE
    assert detections.names == ["patch"]
    assert detections.category_ids == (7, 8)


def test_one_frame_gives_detections() -> None:
    for frame, corner in zip(frames(), CORNERS, strict=True):
        check(detector()(frame), corner)


@pytest.mark.parametrize("batch", [None, 1, 2, 4, 8])
def test_a_list_gives_a_list_in_order_for_any_batch(batch: int | None) -> None:
    stand_in = StandIn(contract(), batch=batch)
    results = Detector(stand_in)(frames())
    assert isinstance(results, list)
    for detections, corner in zip(results, CORNERS, strict=True):
        check(detections, corner)
    assert {shape[0] for shape in stand_in.calls} == {batch or len(SIZES)}
    assert len(stand_in.calls) == -(-len(SIZES) // (batch or len(SIZES)))


def test_a_batch_gives_the_same_detections_as_single_frames() -> None:
    together = detector()(frames())
    for detections, frame in zip(together, frames(), strict=True):
        alone = detector()(frame)
        assert (detections.boxes == alone.boxes).all()
        assert (detections.scores == alone.scores).all()


def test_no_frames_and_an_empty_frame_give_empty_results() -> None:
    assert detector()([]) == []
    assert len(detector()(np.zeros((50, 50, 3), np.uint8))) == 0


def test_a_fixed_batch_is_filled_with_black_frames() -> None:
    ticket = StandIn(contract(), batch=4).submit(frames()[:1])
    assert ticket.images.shape == (4, 64, 96, 3)
    assert len(ticket.letterboxes) == 1
    assert ticket.images[0].any()
    assert not ticket.images[1:].any()


def test_results_may_be_fetched_in_any_order() -> None:
    run = detector(batch=2)
    one, several = run.submit(frames()[0]), run.submit(frames())
    assert [len(detections) for detections in run.result(several)] == [len(run(frame)) for frame in frames()]
    assert (run.result(one).boxes == run(frames()[0]).boxes).all()


def test_a_frame_may_be_modified_after_it_is_submitted() -> None:
    frame = patch_frame((64, 96), (8, 8), SIDE)
    run = detector()
    expected = run(frame).boxes
    ticket = run.submit(frame)
    frame[:] = 0
    assert (run.result(ticket).boxes == expected).all()


def test_grayscale_and_bgra_images_are_converted() -> None:
    frame = patch_frame((64, 96), (8, 8), SIDE)
    expected = detector()(frame).boxes
    assert (detector()(frame[:, :, 0]).boxes == expected).all()
    assert (detector()(np.dstack([frame, frame[:, :, :1]])).boxes == expected).all()


def test_a_later_call_does_not_modify_earlier_results() -> None:
    run = detector()
    first = run(patch_frame((64, 96), (8, 8), SIDE))
    scores = first.scores.copy()
    run(np.zeros((64, 96, 3), np.uint8))
    assert (first.scores == scores).all()


@pytest.mark.parametrize(
    "frame", [np.zeros((4, 4, 3), np.float32), np.zeros(5, np.uint8), [np.zeros((2, 2, 2), np.uint8)]]
)
def test_an_array_that_is_not_an_image_is_refused(frame: Any) -> None:
    with pytest.raises(ValueError, match="expected an image"):
        detector()(frame)


def test_a_frame_of_a_single_pixel_can_be_detected_in() -> None:
    detections = detector()(np.full((1, 1, 3), 255, np.uint8))
    assert detections.boxes.tolist() == [[0, 0, 1, 1]]


def test_leaving_the_block_closes_the_executor() -> None:
    stand_in = StandIn(contract())
    with Detector(stand_in) as opened:
        assert not stand_in.closed
        assert opened.contract is stand_in.contract
    assert stand_in.closed


@pytest.mark.parametrize("name", ["model", "model.txt"])
def test_an_unknown_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelFileError, match=r"expected a model ending in \.pt, \.onnx or \.engine, got "):
        Detector.load(tmp_path / name)


def test_a_missing_or_foreign_onnx_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.onnx: expected an ONNX file"):
        Detector.load(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelFileError, match=r"junk\.onnx: expected an ONNX model, got"):
        Detector.load(str(tmp_path / "junk.onnx"))


def test_thresholds_of_a_checkpoint_can_be_changed(checkpoint: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
    with Detector.load(checkpoint, device="cpu") as detector:
        expected = detector(frame, score=detector.score_threshold)
        median = float(np.median(expected.scores))
        detector.set_thresholds(score_threshold=median)
        assert 0 < len(detector(frame, score=detector.score_threshold)) < len(expected)


def test_thresholds_of_an_onnx_cannot_be_changed() -> None:
    with (
        Detector.load(MODEL) as detector,
        pytest.raises(ValueError, match=r"built into this model, got .*; export it again"),
    ):
        detector.set_thresholds(score_threshold=0.5)


def test_no_threshold_leaves_those_of_an_onnx_as_they_are() -> None:
    with Detector.load(MODEL) as detector:
        detector.set_thresholds()
        detector.set_thresholds(score_threshold=None, iou_threshold=None)


@pytest.mark.parametrize(
    ("kind", "device", "message"),
    [
        (
            ".onnx",
            "teapot",
            "expected auto or cpu, or cuda, .* also with :N, for an ONNX, got 'teapot'",
        ),
        (".onnx", "cuda:x", "got 'cuda:x'"),
        (".pt", "mps", "expected auto, cpu, cuda or cuda:N, got 'mps'"),
        (".pt", "meta", "expected auto, cpu, cuda or cuda:N, got 'meta'"),
    ],
)
def test_a_device_that_the_model_cannot_use_is_refused(kind: str, device: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        Detector.load(MODEL.with_suffix(kind), device=device)
