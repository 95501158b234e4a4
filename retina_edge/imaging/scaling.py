"""Smaller copies of images."""

from __future__ import annotations

import cv2

from engines.core.letterbox import BgrImage


def scaled(image: BgrImage, scale: float) -> BgrImage:
    """Return an image that is resized by a factor; a new pixel is the mean of those that it covers.

    Args:
        image: uint8 [height, width, 3].
        scale: factor of both sides, above 0 and at most 1. A side of the result has at least one pixel.

    Examples:
        >>> import numpy as np
        >>> scaled(np.zeros((48, 64, 3), np.uint8), 0.25).shape
        (12, 16, 3)
    """
    size = [max(1, round(length * scale)) for length in (image.shape[1], image.shape[0])]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype("uint8", copy=False)


def limited(image: BgrImage, side: int) -> BgrImage:
    """Return an image whose longer side has at most ``side`` pixels; a smaller one is returned itself.

    Args:
        image: uint8 [height, width, 3].
        side: largest length of the longer side, pixels.

    Examples:
        >>> import numpy as np
        >>> limited(np.zeros((48, 64, 3), np.uint8), 32).shape
        (24, 32, 3)
    """
    scale = side / max(image.shape[:2])
    return scaled(image, scale) if scale < 1 else image
