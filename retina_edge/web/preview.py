"""Pictures for people who watch: small enough for a phone, encoded once for all, and only while somebody looks."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import numpy.typing as npt

from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream

# Longer side, pixels, and quality of JPEG, 0 to 100.
SIDE, QUALITY = 960, 80
THUMBNAIL = 160


class Preview:
    """The newest annotated picture of one stream as JPEG."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._lock = threading.Lock()
        self._of: Result | None = None
        self._content = b""

    def newest(self) -> tuple[Result, bytes] | None:
        """The newest result and its picture; None before there is one."""
        result = self.stream.latest
        if result is None:
            return None
        with self._lock:
            if self._of is not result:
                self._content, self._of = jpeg(result.annotated, SIDE), result
            return result, self._content


def jpeg(picture: npt.NDArray[np.uint8], side: int) -> bytes:
    """A picture uint8 [h, w, 3] BGR as JPEG, its longer side at most ``side`` pixels."""
    scale = side / max(picture.shape[:2])
    if scale < 1:
        size = [max(1, round(length * scale)) for length in (picture.shape[1], picture.shape[0])]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    ok, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not ok:
        raise ValueError(f"picture: expected one that JPEG can hold, got {picture.shape}")
    return data.tobytes()


def thumbnail(image: npt.NDArray[np.uint8], box: tuple[float, float, float, float]) -> bytes:
    """What is in a box, xyxy in pixels, with a quarter of its size around it, as JPEG of at most 160 pixels."""
    x1, y1, x2, y2 = box
    wide, high = 0.25 * (x2 - x1), 0.25 * (y2 - y1)
    top, left = max(0, int(y1 - high)), max(0, int(x1 - wide))
    part = image[top : max(top + 1, int(y2 + high)), left : max(left + 1, int(x2 + wide))]
    return jpeg(part if part.size else image, THUMBNAIL)
