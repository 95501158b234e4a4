"""Images and videos that tests write and read."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.stand_in import patch_frame


def write_patch_image(path: Path, *, size: tuple[int, int] = (64, 96)) -> Path:
    """Write an image of noise with a white patch, of (height, width), in the format of the path's suffix."""
    image = np.random.default_rng(0).integers(0, 100, (*size, 3), np.uint8)
    image[5:25, 5:25] = 255
    assert cv2.imwrite(str(path), image)
    return path


def write_video(
    path: Path, *, count: int, fps: float = 25.0, size: tuple[int, int] = (64, 96), codec: str = "mp4v"
) -> Path:
    """Write a video: frame i has gray level 10 i (at most 190), with a white patch that moves 2 pixels per frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (size[1], size[0]))
    assert writer.isOpened()
    for index in range(count):
        frame = patch_frame(size, (2 * index % (size[1] - 16), 24))
        writer.write(np.maximum(frame, np.uint8(min(190, 10 * index))))
    writer.release()
    return path


def count_frames(path: Path) -> tuple[int, tuple[int, int], float]:
    """Return the number of frames that can be read from a video, their (height, width) and the frame rate."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    fps = capture.get(cv2.CAP_PROP_FPS)
    size = (int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count, size, fps
