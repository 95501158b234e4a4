"""Reads one picture, and refuses what OpenCV would fill up with grey."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from engines.errors import SourceError
from retina_edge.quiet import quiet_opencv

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_PNG_END_BYTES = 8  # with its checksum


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """The picture in a file: uint8 [height, width, 3], BGR, turned as its EXIF orientation says.

    Raises:
        SourceError: the file cannot be read, is no picture, or ends early; names it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    if _ends_early(data):
        raise SourceError(f"{path}: the picture is truncated; copy or download it again")
    image = None
    if data:
        try:
            with quiet_opencv():
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None  # such as more pixels than OpenCV allows: the same error below
    if image is None:
        raise SourceError(
            f"{path}: expected a picture that OpenCV reads, got {len(data)} bytes of something else or damaged"
        )
    return image.astype(np.uint8, copy=False)


def _ends_early(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end. OpenCV before 5 decodes such a JPEG, with grey for the rest, and
    libpng writes to stderr; other formats are refused by their decoders."""
    if data.startswith(_PNG_START):
        end = data.rfind(_PNG_END)
        return end < 0 or end + _PNG_END_BYTES > len(data)
    if not data.startswith(_JPEG_START):
        return False
    # The end marker counts only after the scan's start: a thumbnail in the header has one of its own.
    position = len(_JPEG_START)
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == _JPEG_SCAN:
            return data.find(_JPEG_END, position) < 0
        if data[position + 1] == 0xFF:  # fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True
