"""Image files, which are read and written completely or not at all."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from engines import LIMIT_VARIABLE, MAX_PIXELS
from engines.core.atomic_file import atomic_file
from engines.core.contract import BIT_DEPTH
from engines.core.errors import SinkError, SourceError
from engines.core.letterbox import BgrImage
from retina_edge.imaging.image_header import JPEG_SCAN, JPEG_START, PNG_START, ImageHeader, read_header, segment_length
from retina_edge.imaging.opencv_log import quiet_opencv

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

# An image of 16 bits whose values need at most this many is probably that of a camera with fewer bits, and too dark.
SUSPICIOUS_BITS = 14

# Formats that OpenCV reads, and those whose files may have 16 bits of which fewer are used.
_READ = frozenset({"PNG", "JPEG", "TIFF", "BMP", "WebP", "Netpbm", "JPEG 2000", "AVIF", "GIF"})
_DEEP = frozenset({"PNG", "TIFF", "JPEG 2000", "Netpbm"})
_JPEG_END = b"\xff\xd9"
_PNG_END = b"IEND"
_PNG_END_BYTES = 8  # name of the last chunk and its checksum

logger = logging.getLogger(__name__)
# Numbers of bits that were reported, because all images of a camera have the same.
_reported: set[int] = set()


def read_image(path: Path, bit_depth: int = BIT_DEPTH, *, warn: bool = True) -> BgrImage:
    """Read an image file as uint8 [height, width, 3], BGR, rotated according to its EXIF orientation.

    Opacity and any other fourth band are ignored. Of 16 bits, the upper 8 of the bits that are used count.

    Args:
        path: path of the file.
        bit_depth: bits that an image of 16 bits uses, 9 to 16: 12 for a camera whose values end at 4095.
        warn: log a warning if an image of 16 bits seems to use fewer bits than ``bit_depth``.

    Raises:
        SourceError: if the file cannot be read, is not an image, is truncated or too large, or has values that cannot
            be converted; the message names the file.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> read_image(FOREST).shape
        (622, 2299, 3)
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait forever, a device would never end
            raise SourceError(f"{path}: expected an image file, got a folder, a pipe or a device")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path}: cannot be read ({reason})") from error
    if _is_truncated(data):
        raise SourceError(f"{path}: the image is truncated; copy or download it again")
    header = read_header(data)
    if header.refusal:
        raise SourceError(f"{path}: {header.refusal}")
    _check_size(path, header)
    image = _decode(data, header)
    if image is None:
        raise SourceError(f"{path}: {_why_unreadable(data, header)}")
    if image.dtype == np.uint8:
        return image.astype(np.uint8, copy=False)
    return to_8_bits(image, header.bit_depth or bit_depth, path, warn=warn)


def _check_size(path: Path, header: ImageHeader) -> None:
    limit = os.environ.get(LIMIT_VARIABLE) or str(MAX_PIXELS)
    if not limit.isdecimal():
        raise SourceError(f"{LIMIT_VARIABLE}: expected a number of pixels, got {limit}; correct it")
    most = int(limit)
    if header.size is not None and header.size[0] * header.size[1] > most:
        raise SourceError(
            f"{path}: expected at most {most / 1e6:.0f} million pixels, got {header.size[1]}x{header.size[0]}; cut the "
            f"image into tiles, or raise the limit with {LIMIT_VARIABLE}, if the memory is large enough"
        )


def _decode(data: bytes, header: ImageHeader) -> npt.NDArray[Any] | None:
    """Return the pixels, [height, width, 3] of the file's own type; None if OpenCV cannot decode the file."""
    content = np.frombuffer(data, np.uint8)
    if header.alpha_at is not None:
        # libtiff would multiply the colors by the fourth band, which is often infrared and no opacity.
        content = content.copy()
        content[header.alpha_at] = 0
    try:
        with quiet_opencv():
            # OpenCV itself converts the bits of other formats, whose depth stands in the file.
            deep = cv2.IMREAD_ANYDEPTH if header.kind in _DEEP else 0
            return cv2.imdecode(content, cv2.IMREAD_COLOR | deep) if len(data) else None
    except cv2.error:  # for instance more pixels than OpenCV allows
        return None


def _why_unreadable(data: bytes, header: ImageHeader) -> str:
    """Return what is wrong with a file that OpenCV cannot decode, and what to do."""
    if header.kind in _READ:
        return f"expected an image that OpenCV can read, got a damaged {header.kind}, or a kind of it that OpenCV lacks"
    if header.kind:
        return f"expected an image that OpenCV can read, got {header.kind}; convert it to JPEG or PNG"
    return f"expected an image that OpenCV can read, got {len(data)} bytes that are damaged or of another kind"


def to_8_bits(image: npt.NDArray[Any], bit_depth: int, name: Path | str, *, warn: bool = True) -> npt.NDArray[np.uint8]:
    """Return the upper 8 of the bits that an image of 16 bits uses: uint8 of the same shape.

    Args:
        image: uint16.
        bit_depth: bits that are used, 9 to 16.
        name: name of the image for messages.
        warn: log a warning if the image seems to use fewer bits.

    Raises:
        SourceError: if the image has other values.

    Examples:
        >>> to_8_bits(np.array([[0, 2048, 4095]], np.uint16), 12, "thermal.png").tolist()
        [[0, 128, 255]]
    """
    if image.dtype != np.uint16:
        raise SourceError(
            f"{name}: expected values of 8 or 16 bits without sign, got {image.dtype} from {image.min():g} to "
            f"{image.max():g}; scale them to 0..255, 8 bits"
        )
    used = int(image.max()).bit_length()
    if used > bit_depth:
        raise SourceError(
            f"{name}: expected values below {2**bit_depth} for a bit depth of {bit_depth}, got {image.max()}; correct "
            "the bit depth (--bit-depth, or that of the model with export --bit-depth)"
        )
    if warn and bit_depth == BIT_DEPTH and 0 < used <= SUSPICIOUS_BITS and used not in _reported:
        _reported.add(used)
        logger.warning(
            "%s: this image of 16 bits uses only values up to %d, so it is almost black; if the camera has %d bits, "
            "say so with --bit-depth %d",
            name,
            image.max(),
            max(used, 9),
            max(used, 9),
        )
    return (image >> (bit_depth - 8)).astype(np.uint8)


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
    with atomic_file(path) as file:
        file.write(content)


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
    if data.startswith(PNG_START):
        end = data.rfind(_PNG_END)
        return end < 0 or end + _PNG_END_BYTES > len(data)
    if not data.startswith(JPEG_START):
        return False
    # The end marker counts only after the start of the scan: a thumbnail in the header has an end marker too.
    position = len(JPEG_START)
    while position + 4 <= len(data) and data[position] == 0xFF:
        if data[position + 1] == JPEG_SCAN:
            return data.find(_JPEG_END, position) < 0
        position += segment_length(data, position)
    return True
