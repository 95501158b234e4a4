"""Image files, which are read and written completely or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from engines.core.errors import SinkError, SourceError
from engines.core.letterbox import BgrImage
from retina_edge.imaging.opencv_log import quiet_opencv

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_JPEG_SCAN = 0xDA
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND"
_PNG_END_BYTES = 8  # name of the last chunk and its checksum


def read_image(path: Path) -> BgrImage:
    """Read an image file as uint8 [height, width, 3], BGR, rotated according to its EXIF orientation.

    Raises:
        SourceError: if the file cannot be read, is not an image, or is truncated; the message names the file.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> read_image(FOREST).shape
        (622, 2299, 3)
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error
    if _is_truncated(data):
        raise SourceError(f"{path}: the image is truncated; copy or download it again")
    image = None
    if data:
        try:
            with quiet_opencv():
                image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:
            image = None  # for instance more pixels than OpenCV allows
    if image is None:
        raise SourceError(
            f"{path}: expected an image that OpenCV can read, got {len(data)} bytes that are damaged or of another kind"
        )
    return image.astype(np.uint8, copy=False)


def write_image(path: Path, image: BgrImage) -> None:
    """Write an image, uint8 [height, width, 3] BGR, in the format of the path's suffix, completely or not at all.

    Raises:
        OSError: if the file cannot be written; the error names the file.
        SinkError: if OpenCV cannot write this format or size.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_image(Path(folder, "black.png"), np.zeros((48, 64, 3), np.uint8))
        ...     read_image(Path(folder, "black.png")).shape
        (48, 64, 3)
    """
    try:
        content = encode_image(image, path.suffix)
    except SinkError as error:
        raise SinkError(f"{path}: {error}") from error
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:  # the error of a full disk does not name the file
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def encode_image(image: BgrImage, suffix: str, *, jpeg_quality: int = 95) -> bytes:
    """Encode an image, uint8 [height, width, 3] BGR, in the format of a file suffix such as ``.png``.

    Args:
        image: the image.
        suffix: suffix of the format, with its dot.
        jpeg_quality: quality from 0 to 100, for JPEG only.

    Raises:
        SinkError: if OpenCV cannot write this format or size.

    Examples:
        >>> encode_image(np.zeros((48, 64, 3), np.uint8), ".png")[:4]
        b'\\x89PNG'
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if suffix in (".jpg", ".jpeg") else []
    try:
        with quiet_opencv():
            encoded, data = cv2.imencode(suffix, image, options)
    except cv2.error:
        encoded = False
    if not encoded:
        raise SinkError(
            f"OpenCV cannot write {image.shape[1]}x{image.shape[0]} pixels in color as "
            f"{suffix or 'a file without a suffix'}; convert the source to .png or .jpg"
        )
    return data.tobytes()


def _is_truncated(data: bytes) -> bool:
    """True if a JPEG or PNG lacks its end.

    OpenCV before 5 decodes such a JPEG and fills the rest with gray, and libpng writes to stderr. The decoders of other
    formats refuse truncated files themselves.
    """
    if data.startswith(_PNG_START):
        end = data.rfind(_PNG_END)
        return end < 0 or end + _PNG_END_BYTES > len(data)
    if not data.startswith(_JPEG_START):
        return False
    # The end marker counts only after the start of the scan: a thumbnail in the header has an end marker too.
    position = len(_JPEG_START)
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == _JPEG_SCAN:
            return data.find(_JPEG_END, position) < 0
        if data[position + 1] == 0xFF:  # fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True
