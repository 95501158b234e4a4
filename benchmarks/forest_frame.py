"""The picture that is measured with: a piece of the forest that comes along, as a camera would give it."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from retina_edge.assets import FOREST
from retina_edge.imaging.image_file import read_image

# Height and width of a common camera.
FRAME_SIZE = (720, 1280)


def forest_frame(size: tuple[int, int] = FRAME_SIZE) -> npt.NDArray[np.uint8]:
    """BGR uint8 [height, width, 3] of (height, width): the forest's left end, as much as has these sides."""
    forest, (height, width) = read_image(FOREST), size
    part = forest[:, : forest.shape[0] * width // height]
    return np.asarray(cv2.resize(part, (width, height)), np.uint8)
