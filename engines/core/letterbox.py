"""Frames to network input and boxes back: the one geometry that training, calibration and running share.

A frame is resized bilinearly (half-pixel centers, as OpenCV's INTER_LINEAR) to fit the input with its aspect
kept, and padded with zeros at the right and the bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

# uint8 [height, width, 3], BGR, as OpenCV delivers it.
BgrImage: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Letterbox:
    """Where a frame lies in the network's input.

    Attributes:
        frame_size: (height, width) of the frame, pixels.
        resized: (height, width) of the frame inside the input, pixels, each at least 1.
    """

    frame_size: tuple[int, int]
    resized: tuple[int, int]

    @classmethod
    def fit(cls, frame_size: tuple[int, int], input_size: tuple[int, int]) -> Letterbox:
        """The letterbox of a frame of (height, width) in an input of (height, width)."""
        scale = min(input_size[0] / frame_size[0], input_size[1] / frame_size[1])
        height, width = (
            min(limit, max(1, round(side * scale))) for side, limit in zip(frame_size, input_size, strict=True)
        )
        return cls(frame_size, (height, width))

    def scale_xyxy(self) -> npt.NDArray[np.float32]:
        """float32 [4]: input pixels per frame pixel in x, y, x, y. Differs by axis where rounding bites."""
        y, x = (new / old for new, old in zip(self.resized, self.frame_size, strict=True))
        return np.array([x, y, x, y], np.float32)

    def to_frame(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes float32 [N, 4] xyxy from input pixels to frame pixels, clipped to the frame."""
        if not len(boxes):  # as of most frames of many a camera
            return np.zeros((0, 4), np.float32)
        height, width = self.frame_size
        limits = np.array([width, height, width, height], np.float32)
        clipped: npt.NDArray[np.float32] = np.clip(boxes / self.scale_xyxy(), np.float32(0), limits)
        return clipped

    def to_input(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes float32 [N, 4] xyxy from frame pixels to input pixels."""
        return boxes * self.scale_xyxy()

    def apply(self, frame: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
        """Writes a BGR frame uint8 [h, w, 3] into ``out`` uint8 [height, width, 3], padding included."""
        height, width = self.resized
        if self.resized == self.frame_size:
            out[:height, :width] = frame
        else:
            out[:height, :width] = cv2.resize(frame, (width, height), interpolation=cv2.INTER_LINEAR)
        out[height:] = 0
        out[:height, width:] = 0


def letterbox_batch(
    frames: Sequence[npt.NDArray[Any]], input_size: tuple[int, int], *, batch: int | None = None
) -> tuple[npt.NDArray[np.uint8], list[Letterbox]]:
    """Frames of any sizes as one network input: uint8 [N, height, width, 3] BGR, and where each lies in it.

    Args:
        frames: as ``as_bgr`` takes them.
        input_size: (height, width) of the network's input.
        batch: N, at least the number of frames; images past them are zero. None for as many as there are.

    Raises:
        ValueError: one of them is no frame.
    """
    bgr = [as_bgr(frame) for frame in frames]
    letterboxes = [Letterbox.fit((frame.shape[0], frame.shape[1]), input_size) for frame in bgr]
    images = np.empty((len(bgr) if batch is None else batch, *input_size, 3), np.uint8)
    for frame, letterbox, image in zip(bgr, letterboxes, images, strict=False):
        letterbox.apply(frame, image)
    images[len(bgr) :] = 0
    return images, letterboxes


def as_bgr(frame: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A frame as BGR uint8 [h, w, 3]; takes BGR, grayscale [h, w] or [h, w, 1], and BGRA (alpha dropped).

    Raises:
        ValueError: another shape or dtype, or an empty frame; shows both what is expected and what came.
    """
    expected = "expected a frame as OpenCV gives it: uint8 [height, width, 3] BGR, grayscale or BGRA"
    if not isinstance(frame, np.ndarray):
        raise ValueError(f"{expected}; got {type(frame).__name__}")
    shape = frame.shape
    if frame.dtype != np.uint8:
        raise ValueError(f"{expected}; got {frame.dtype} {list(shape)}: scale it to 0..255 and convert to uint8")
    if frame.size == 0 or not (frame.ndim == 2 or (frame.ndim == 3 and shape[2] in (1, 3, 4))):
        raise ValueError(f"{expected}; got uint8 {list(shape)}")
    if frame.ndim == 2 or shape[2] == 1:
        return np.repeat(frame.reshape(*shape[:2], 1), 3, axis=2)
    return frame if shape[2] == 3 else frame[:, :, :3]
