"""A part of a frame, such as a tile, which the letterbox cuts out itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from engines.core.gpu_frame import GpuFrame, Pixels
from engines.core.letterbox import BgrImage, as_bgr


@dataclass(frozen=True, eq=False)
class FrameRegion:
    """A rectangle of a frame. Where it reaches past the frame, it is black.

    Attributes:
        frame: the frame: in host memory (of a kind that ``as_bgr`` takes), on the GPU, or uploaded by the runner.
        top, left: position of the rectangle in the frame, pixels.
        size: (height, width) of the rectangle, pixels.

    Examples:
        >>> region = FrameRegion(np.full((4, 4, 3), 255, np.uint8), top=2, left=1, size=(4, 2))
        >>> region.crop()[:, 0, 0].tolist()
        [255, 255, 0, 0]
    """

    frame: npt.NDArray[np.uint8] | GpuFrame | Pixels
    top: int
    left: int
    size: tuple[int, int]

    @property
    def filled(self) -> tuple[int, int]:
        """(height, width) of the part that lies in the frame, pixels."""
        height, width = frame_size(self.frame)
        return min(self.size[0], height - self.top), min(self.size[1], width - self.left)

    def crop(self) -> BgrImage:
        """Return the region of a frame in host memory, BGR, uint8 [height, width, 3]; a view if nothing is black."""
        assert isinstance(self.frame, np.ndarray)
        height, width = self.size
        part = as_bgr(self.frame)[self.top : self.top + height, self.left : self.left + width]
        if part.shape[:2] == self.size:
            return part
        return np.pad(part, ((0, height - part.shape[0]), (0, width - part.shape[1]), (0, 0)))


# What an executor takes. Only the runner of an engine takes frames on the GPU.
Frame: TypeAlias = npt.NDArray[np.uint8] | GpuFrame | FrameRegion


def frame_size(frame: Any) -> tuple[int, int]:
    """Return (height, width) of a frame of any kind, pixels."""
    return tuple(frame.shape[:2]) if isinstance(frame, np.ndarray) else frame.size


def gpu_frame_of(frame: Any) -> GpuFrame | None:
    """Return the user's frame on the GPU that a frame is, or is a region of; None if there is none."""
    whole = frame.frame if isinstance(frame, FrameRegion) else frame
    return whole if isinstance(whole, GpuFrame) else None
