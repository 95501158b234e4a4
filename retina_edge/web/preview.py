"""JPEG previews for viewers: small enough for a phone, encoded on demand and once for all viewers."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import numpy.typing as npt

from retina_edge.imaging.scaling import limited
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream

# Longer side of a preview in pixels, and JPEG quality from 0 to 100.
PREVIEW_SIDE, JPEG_QUALITY = 960, 80
# Longer side of a thumbnail, pixels.
THUMBNAIL_SIDE = 160


class Preview:
    """The newest annotated frame of one stream as JPEG. Thread-safe.

    Args:
        stream: the stream.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._encoded: Result | None = None
        self._content = b""

    def newest(self) -> tuple[Result, bytes] | None:
        """Return the newest result and its annotated frame as JPEG; None before the first result."""
        result = self.stream.latest
        if result is None:
            return None
        with self._lock:
            if self._encoded is not result:
                self._content, self._encoded = jpeg(result.annotated, PREVIEW_SIDE), result
            return result, self._content


def jpeg(image: npt.NDArray[np.uint8], side: int, quality: int = JPEG_QUALITY) -> bytes:
    """Encode an image as JPEG.

    Args:
        image: uint8 [height, width, 3], BGR.
        side: largest length of the longer side, pixels; a larger image is scaled down.
        quality: JPEG quality, 0 to 100.

    Raises:
        ValueError: if the image cannot be encoded.
    """
    image = limited(image, side)
    ok, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"image: expected a size that JPEG supports, got {image.shape}")
    return data.tobytes()


def thumbnail(image: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> bytes:
    """Return the part of an image inside a box, with a margin of a quarter of the box, as JPEG of at most 160 pixels.

    Args:
        image: uint8 [height, width, 3], BGR.
        box: xyxy in pixels, clipped to the image. If the box is outside of the image, the whole image is returned.
    """
    x1, y1, x2, y2 = box
    margin_x, margin_y = 0.25 * (x2 - x1), 0.25 * (y2 - y1)
    top, left = max(0, int(y1 - margin_y)), max(0, int(x1 - margin_x))
    part = image[top : max(top + 1, int(y2 + margin_y)), left : max(left + 1, int(x2 + margin_x))]
    return jpeg(part if part.size else image, THUMBNAIL_SIDE)
