"""The letterbox: from frames to network input and back, with one geometry for training, calibration and inference.

A frame is resized bilinearly (half-pixel centers, like OpenCV's INTER_LINEAR) to fit the input, with its aspect ratio
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
_UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True)
class Letterbox:
    """The position of a frame in the network's input.

    Attributes:
        frame_size: (height, width) of the frame, pixels.
        resized: (height, width) of the resized frame inside the input, pixels, each at least 1.

    Examples:
        >>> letterbox = Letterbox.fit((720, 1280), (416, 736))
        >>> letterbox.resized
        (414, 736)
        >>> letterbox.to_frame(np.array([[0, 0, 368, 414]], np.float32)).tolist()
        [[0.0, 0.0, 640.0, 720.0]]
    """

    frame_size: tuple[int, int]
    resized: tuple[int, int]

    @classmethod
    def fit(cls, frame_size: tuple[int, int], input_size: tuple[int, int]) -> Letterbox:
        """Return the letterbox that fits a frame into an input.

        Args:
            frame_size: (height, width) of the frame, pixels.
            input_size: (height, width) of the network's input, pixels.
        """
        scale = min(input_size[0] / frame_size[0], input_size[1] / frame_size[1])
        height, width = (
            min(limit, max(1, round(side * scale))) for side, limit in zip(frame_size, input_size, strict=True)
        )
        return cls(frame_size, (height, width))

    def scale_xyxy(self) -> npt.NDArray[np.float32]:
        """Return the scale from frame pixels to input pixels, in the order x, y, x, y: float32 [4].

        The axes may differ slightly, because each side is rounded to whole pixels.

        Examples:
            >>> Letterbox.fit((832, 368), (416, 736)).scale_xyxy().tolist()
            [0.5, 0.5, 0.5, 0.5]
        """
        y, x = (new / old for new, old in zip(self.resized, self.frame_size, strict=True))
        return np.array([x, y, x, y], np.float32)

    def to_frame(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map boxes, float32 [N, 4] xyxy, from input pixels to frame pixels, and clip them to the frame."""
        if not len(boxes):  # the usual case for many cameras
            return np.zeros((0, 4), np.float32)
        height, width = self.frame_size
        limits = np.array([width, height, width, height], np.float32)
        clipped: npt.NDArray[np.float32] = np.clip(boxes / self.scale_xyxy(), np.float32(0), limits)
        return clipped

    def to_input(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Map boxes, float32 [N, 4] xyxy, from frame pixels to input pixels.

        Examples:
            >>> Letterbox.fit((832, 368), (416, 736)).to_input(np.array([[0, 0, 368, 832]], np.float32)).tolist()
            [[0.0, 0.0, 184.0, 416.0]]
        """
        return boxes * self.scale_xyxy()

    def apply(self, frame: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> None:
        """Write a frame and its padding into a network input.

        Args:
            frame: BGR frame of ``frame_size``, uint8 [h, w, 3].
            out: array to fill, uint8 [height, width, 3].

        Examples:
            >>> out = np.empty((32, 64, 3), np.uint8)
            >>> Letterbox.fit((2, 3), (32, 64)).apply(np.full((2, 3, 3), 255, np.uint8), out)
            >>> int(out[0, 47, 0]), int(out[0, 48, 0])
            (255, 0)
        """
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
    """Letterbox frames of any sizes into one network input.

    Args:
        frames: frames of a kind that ``as_bgr`` takes.
        input_size: (height, width) of the network's input, pixels.
        batch: batch size N, at least the number of frames. Images without a frame are zero. None for as many images as
            frames.

    Returns:
        The network input, uint8 [N, height, width, 3], BGR, and the letterbox of each frame.

    Raises:
        ValueError: if an array is not a frame, or there are more frames than ``batch``.

    Examples:
        >>> images, letterboxes = letterbox_batch([np.zeros((720, 1280, 3), np.uint8)], (416, 736), batch=4)
        >>> images.shape
        (4, 416, 736, 3)
        >>> letterboxes
        [Letterbox(frame_size=(720, 1280), resized=(414, 736))]
    """
    if batch is not None and len(frames) > batch:
        raise ValueError(f"frames: expected at most {batch}, the model's batch, got {len(frames)}")
    bgr = [as_bgr(frame) for frame in frames]
    letterboxes = [Letterbox.fit((frame.shape[0], frame.shape[1]), input_size) for frame in bgr]
    images = np.empty((len(bgr) if batch is None else batch, *input_size, 3), np.uint8)
    for frame, letterbox, image in zip(bgr, letterboxes, images, strict=False):
        letterbox.apply(frame, image)
    images[len(bgr) :] = 0
    return images, letterboxes


def as_bgr(frame: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return a frame as BGR, uint8 [h, w, 3].

    Args:
        frame: BGR [h, w, 3], grayscale [h, w] or [h, w, 1], or BGRA [h, w, 4], uint8; the alpha channel is discarded.

    Raises:
        ValueError: if the array is empty, or has another shape or dtype.

    Examples:
        >>> as_bgr(np.array([[0, 255]], np.uint8)).tolist()
        [[[0, 0, 0], [255, 255, 255]]]
    """
    if (
        isinstance(frame, np.ndarray)
        and frame.dtype == _UINT8
        and frame.ndim == 3
        and frame.shape[2] == 3
        and frame.size
    ):
        return frame  # the usual case
    expected = "expected a frame as OpenCV delivers it: uint8 [height, width, 3] BGR, grayscale or BGRA"
    if not isinstance(frame, np.ndarray):
        raise ValueError(f"{expected}; got {type(frame).__name__}")
    shape = frame.shape
    if frame.dtype != np.uint8:
        raise ValueError(f"{expected}; got {frame.dtype} {list(shape)}{uint8_advice(frame.dtype)}")
    if frame.size == 0 or not (frame.ndim == 2 or (frame.ndim == 3 and shape[2] in (1, 3, 4))):
        raise ValueError(f"{expected}; got uint8 {list(shape)}")
    if frame.ndim == 2 or shape[2] == 1:
        return np.repeat(frame.reshape(*shape[:2], 1), 3, axis=2)
    return frame[:, :, :3]


def uint8_advice(dtype: np.dtype[Any]) -> str:
    """Return the end of an error message: how to convert an array to uint8. Empty if there is no need or no way.

    Examples:
        >>> uint8_advice(np.dtype(np.float32))
        '; scale the values to 0..255 and convert to uint8'
    """
    if dtype == np.bool_:
        return "; convert it with 255 * array.astype(np.uint8)"
    if dtype == np.uint16:
        return "; if the values use all 16 bits, convert it with (array >> 8).astype(np.uint8)"
    return "; scale the values to 0..255 and convert to uint8" if dtype != np.uint8 and dtype.kind in "iuf" else ""
