"""The conversion of YUV video to BGR: the numbers that the letterbox kernel multiplies luma and chroma by.

References: ITU-R BT.601-7 and BT.709-6, section 3 (luma, color differences, quantization), and for the full range
ITU-T H.273, table 4.
"""

from __future__ import annotations

from typing import NamedTuple

# Shares of red and blue in luma.
MATRICES = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
RANGES = ("limited", "full")


class YuvToBgr(NamedTuple):
    """A conversion: a channel is ``luma_scale * max(0, Y - luma_offset)`` plus parts of ``U - 128`` and ``V - 128``.

    Attributes:
        luma_offset, luma_scale: black of Y, and gray levels for a step of Y.
        blue_u, green_u, green_v, red_v: gray levels in a channel for a step of U or V.
    """

    luma_offset: float
    luma_scale: float
    blue_u: float
    green_u: float
    green_v: float
    red_v: float


def yuv_to_bgr(matrix: str, color_range: str) -> YuvToBgr:
    """Return a conversion.

    Args:
        matrix: ``bt601`` or ``bt709``.
        color_range: ``limited`` (Y from 16 to 235, U and V from 16 to 240) or ``full`` (0 to 255).

    Raises:
        ValueError: if one is none of these.

    Examples:
        >>> [round(value, 3) for value in yuv_to_bgr("bt601", "limited")]
        [16.0, 1.164, 2.017, -0.392, -0.813, 1.596]
    """
    if matrix not in MATRICES:
        raise ValueError(f"matrix: expected {' or '.join(MATRICES)}, got {matrix!r}")
    if color_range not in RANGES:
        raise ValueError(f"color_range: expected {' or '.join(RANGES)}, got {color_range!r}")
    red, blue = MATRICES[matrix]
    green = 1 - red - blue
    luma, chroma = (255 / 219, 255 / 224) if color_range == "limited" else (1.0, 1.0)
    blue_u, red_v = 2 * (1 - blue) * chroma, 2 * (1 - red) * chroma
    return YuvToBgr(
        16.0 if color_range == "limited" else 0.0, luma, blue_u, -blue_u * blue / green, -red_v * red / green, red_v
    )
