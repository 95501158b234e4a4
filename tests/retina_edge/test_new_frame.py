"""``Detector.new_frame`` without a GPU: frames of the detector's own pool, which the letterbox reads where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engines.core import letterbox
from engines.core.errors import RetinaEdgeError
from retina_edge.assets import CHECKPOINT, FOREST, MODEL
from retina_edge.detector import Detector
from retina_edge.imaging.image_file import read_image
from retina_edge.tiling import TiledDetector

WHOLE = read_image(FOREST)
IMAGE = np.asarray(cv2.resize(WHOLE[:, :1100], (736, 416)), np.uint8)
LARGER = np.asarray(cv2.resize(IMAGE, (800, 600)), np.uint8)


@pytest.mark.parametrize("model", [MODEL, CHECKPOINT], ids=lambda path: path.suffix)
def test_the_letterbox_is_the_first_to_touch_a_frame(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def resize(frame: Any, *arguments: Any, **options: Any) -> Any:
        read.append(frame.ctypes.data)
        return cv2.resize(frame, *arguments, **options)

    stand_in = type("cv2", (), {"resize": staticmethod(resize), "INTER_LINEAR": cv2.INTER_LINEAR})
    with Detector.load(model, device="cpu") as detector:
        expected = detector(LARGER)
        frame = detector.new_frame(600, 800)
        frame[:] = LARGER
        monkeypatch.setattr(letterbox, "cv2", stand_in)
        found = detector(frame)
    assert read == [frame.ctypes.data]
    assert len(found) > 3
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_memory_is_used_again_when_no_frame_refers_to_it() -> None:
    with Detector.load(MODEL) as detector:
        first = detector.new_frame(416, 736)
        address = first.ctypes.data
        first[:] = IMAGE
        ticket = detector.submit(first)
        del first
        second = detector.new_frame(416, 736)
        assert second.ctypes.data == address  # the letterbox has read the first frame
        second[:] = 0
        assert len(detector.result(ticket)) == len(detector(IMAGE)) > 3


def test_a_tiled_detector_has_the_frames_of_its_detector() -> None:
    with Detector.load(MODEL) as detector:
        tiled = TiledDetector(detector)
        frame = tiled.new_frame(622, 2299)
        frame[:] = WHOLE
        assert len(tiled(frame)) == len(tiled(FOREST)) > 3
        tiled.close()
    with pytest.raises(RetinaEdgeError, match="got a closed one"):
        tiled.new_frame(4, 4)


def test_a_frame_is_valid_after_its_detector_is_closed_which_gives_no_new_one() -> None:
    detector = Detector.load(MODEL)
    frame = detector.new_frame(4, 6)
    detector.close()
    frame[:] = 3
    assert (frame == 3).all()
    with pytest.raises(RetinaEdgeError, match="expected an open detector, got a closed one"):
        detector.new_frame(4, 6)
    with Detector.load(MODEL) as detector, pytest.raises(RetinaEdgeError, match="width: expected at least 1, got 0"):
        detector.new_frame(4, 0)
