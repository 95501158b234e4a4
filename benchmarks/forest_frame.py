"""The frame that the benchmarks detect in: a part of the sample image, in the size of a camera's frame."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from retina_edge.assets import FOREST
from retina_edge.imaging.image_file import read_image

# Height and width of a common camera's frame.
FRAME_SIZE = (720, 1280)


def forest_frame(size: tuple[int, int] = FRAME_SIZE) -> npt.NDArray[np.uint8]:
    """Return a frame, BGR uint8 [height, width, 3], of a (height, width): the left end of the sample image, resized.

    The part is as wide as the aspect ratio requires.
    """
    forest, (height, width) = read_image(FOREST), size
    part = forest[:, : forest.shape[0] * width // height]
    return np.asarray(cv2.resize(part, (width, height)), np.uint8)
