"""The header of an image file: its format and size, before memory is taken for its pixels, and the bands of a TIFF.

Sources: PNG (ISO 15948, 11.2.2), JPEG (ITU-T T.81, B.2.2), TIFF 6.0 (sections 2 and 18), BMP, WebP container
(RFC 9649), JPEG 2000 (ISO 15444-1, I.5.3.1), HEIF and AVIF (ISO 23008-12, 6.5.3), Netpbm.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

JPEG_START, JPEG_SCAN = b"\xff\xd8", 0xDA
PNG_START = b"\x89PNG\r\n\x1a\n"
# Start of file and name of formats that OpenCV does not read.
_FOREIGN = (
    (rb"....ftyp(?:hei[cxms]|hev[cmxs]|mif1|msf1)", "HEIC"),
    (rb"%PDF", "PDF"),
    (rb"\s*(?:<\?xml[^>]*>\s*)?<svg", "SVG"),
    (rb"\xff\x0a|....JXL ", "JPEG XL"),
    (rb"SIMPLE  =", "FITS"),
)
# Tags of TIFF, and the format of each type of value.
_WIDTH, _HEIGHT, _BITS, _BANDS, _PLANES, _EXTRA, _SAMPLE_FORMAT = 256, 257, 258, 277, 284, 338, 339
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
_SAMPLES = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "unsigned", 5: "complex", 6: "complex"}
_SEPARATE_PLANES, _UNASSOCIATED_ALPHA = 2, 2
# Frames of a JPEG that hold its size: SOF0 to SOF15 without DHT, JPG and DAC.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclass(frozen=True)
class ImageHeader:
    """What the header of an image file says.

    Attributes:
        kind: name of the format; empty if it is unknown.
        size: (height, width) as stored, pixels; None if it is unknown.
        refusal: for a TIFF that OpenCV cannot read, or reads wrong: what was expected, what came, how to fix it.
        bit_depth: for a Netpbm of more than 8 bits: the bits that its largest value needs.
        alpha_at: for a TIFF with an alpha band that is not premultiplied: position of the value that says so, in bytes.
    """

    kind: str = ""
    size: tuple[int, int] | None = None
    refusal: str = ""
    bit_depth: int | None = None
    alpha_at: int | None = None


def read_header(data: bytes) -> ImageHeader:
    """Read the header of an image file. A damaged header gives an unknown size.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> read_header(FOREST.read_bytes())
        ImageHeader(kind='JPEG', size=(622, 2299), refusal='', bit_depth=None, alpha_at=None)
    """
    try:
        if data.startswith(PNG_START):
            width, height = struct.unpack_from(">II", data, 16)
            return ImageHeader("PNG", (height, width))
        if data.startswith(JPEG_START):
            return ImageHeader("JPEG", _jpeg_size(data))
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return _tiff(data)
        if data.startswith(b"BM"):
            is_os2 = data[14:18] == b"\x0c\0\0\0"
            width, height = struct.unpack_from("<HH" if is_os2 else "<ii", data, 18)
            return ImageHeader("BMP", (abs(height), abs(width)))
        if data.startswith(b"GIF8"):
            width, height = struct.unpack_from("<HH", data, 6)
            return ImageHeader("GIF", (height, width))
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return ImageHeader("WebP", _webp_size(data))
        if data[4:8] in (b"jP  ", b"ftyp") or data.startswith(b"\xff\x4f\xff\x51"):
            return _boxed(data)
        if re.match(rb"P[1-6]\s", data):
            values = [int(value) for value in re.sub(rb"#[^\n]*", b" ", data[:1000]).split(maxsplit=4)[1:4]]
            most = values[2] if data[1:2] not in b"14" else 1
            return ImageHeader("Netpbm", (values[1], values[0]), bit_depth=most.bit_length() if most > 255 else None)
    except (struct.error, ValueError, IndexError, OverflowError):
        return ImageHeader()
    return ImageHeader(next((name for start, name in _FOREIGN if re.match(start, data[:200], re.DOTALL)), ""))


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = len(JPEG_START)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 5)
            return height, width
        if marker == JPEG_SCAN:
            return None
        position += segment_length(data, position)
    return None


def segment_length(data: bytes, position: int) -> int:
    """Return the number of bytes of a JPEG's segment, with its marker."""
    marker = data[position + 1]
    if marker == 0xFF:  # a fill byte
        return 1
    if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # TEM, RST and SOI have no length
        return 2
    return 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", data, 26))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        return None
    return height, width


def _boxed(data: bytes) -> ImageHeader:
    """Read the size from the box of JPEG 2000, HEIF or AVIF that holds it; the largest one, if there are several."""
    if data.startswith(b"\xff\x4f\xff\x51"):  # a JPEG 2000 codestream without boxes
        width, height, left, top = struct.unpack_from(">IIII", data, 8)
        return ImageHeader("JPEG 2000", (height - top, width - left))
    if data[4:8] == b"jP  ":
        height, width = struct.unpack_from(">II", data, data.index(b"ihdr") + 4)
        return ImageHeader("JPEG 2000", (height, width))
    kind = "AVIF" if data[8:12] in (b"avif", b"avis") or b"avif" in data[8:40] else "HEIC"
    places = [match.end() for match in re.finditer(rb"ispe\0\0\0\0", data[:65536])]
    sizes = [struct.unpack_from(">II", data, place)[::-1] for place in places]
    return ImageHeader(kind, max(sizes, key=lambda size: size[0] * size[1], default=None))


def _tiff(data: bytes) -> ImageHeader:
    """Read the tags of the first image of a TIFF or a BigTIFF."""
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:3] == b"+" or data[3:4] == b"+"
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
    entry = order + ("HHQ" if big else "HHI")
    inline, length = (8, 20) if big else (4, 12)
    tags: dict[int, tuple[int, int]] = {}  # first value, and its position
    for index in range(min(count, 1000)):
        at = start + (8 if big else 2) + index * length
        tag, kind, values = struct.unpack_from(entry, data, at)
        if kind not in _TYPES or not values:
            continue
        place = at + length - inline
        if values * struct.calcsize(_TYPES[kind]) > inline:
            (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
        (value,) = struct.unpack_from(order + _TYPES[kind], data, place)
        # Of a tag that occurs twice, libtiff takes the first.
        tags.setdefault(tag, (value, place if order == "<" else place + struct.calcsize(_TYPES[kind]) - 1))
    bits, bands, planes, sample = (tags.get(tag, (1, 0))[0] for tag in (_BITS, _BANDS, _PLANES, _SAMPLE_FORMAT))
    extra, extra_at = tags.get(_EXTRA, (0, 0))
    return ImageHeader(
        "TIFF",
        (tags[_HEIGHT][0], tags[_WIDTH][0]) if {_HEIGHT, _WIDTH} <= set(tags) else None,
        _refusal(bits, bands, _SAMPLES.get(sample, "unknown"), separate=bands > 1 and planes == _SEPARATE_PLANES),
        alpha_at=extra_at if extra == _UNASSOCIATED_ALPHA and bands == 4 and bits == 8 else None,
    )


def _refusal(bits: int, bands: int, sample: str, *, separate: bool) -> str:
    """Return why the pixels of a TIFF are not read; empty if they are."""
    if bands > 4:
        return f"expected an image of 1 to 4 bands, got {bands}; write the three bands to use to a new file"
    if sample != "unsigned" or bits > 16:
        return f"expected unsigned values of 8 or 16 bits, got {sample} ones of {bits}; scale them to 0..255, 8 bits"
    if bits > 8 and bands == 2:
        return f"expected 1, 3 or 4 bands of {bits} bits, got 2; write the band to use to a new file"
    if bits > 8 and separate:
        return (
            f"expected the bands of a TIFF with {bits} bits pixel by pixel, got one after the other; write it anew, "
            "for instance with gdal_translate -co INTERLEAVE=PIXEL"
        )
    return ""
