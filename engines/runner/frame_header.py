"""The header of the letterbox kernel: one row for each image, which says where its pixels are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.frame_region import FrameRegion, frame_size
from engines.core.gpu_frame import GpuFrame, Pixels
from engines.core.letterbox import Letterbox
from engines.core.yuv import YuvToBgr

# Values of ``kind``: no frame, pixels at an offset in the packed frames, pixels at an address, NV12 at two addresses.
NO_FRAME, IN_FRAMES, AT_ADDRESS, NV12 = range(4)
# The layout must agree with struct Source in letterbox.cu.
HEADER = np.dtype(
    [("pixels", "<i8"), ("chroma", "<i8")]
    + [
        (name, "<i4")
        for name in (
            *("kind", "pitch", "pixel_step", "channel_step", "chroma_pitch"),
            *("top", "left", "height", "width", "filled_height", "filled_width", "resized_height", "resized_width"),
        )
    ]
    + [(name, "<f4") for name in YuvToBgr._fields]
    + [("zero", "<i4")]
)


def header_of(out: npt.NDArray[np.uint8], batch: int) -> npt.NDArray[Any]:
    """Return the header in a block of memory, [batch] of ``HEADER``, all zero: an image of zeros for each row.

    Args:
        out: block of memory, uint8, that begins with the header.
        batch: number of images.
    """
    header: npt.NDArray[Any] = out[: batch * HEADER.itemsize].view(HEADER)
    out[: batch * HEADER.itemsize] = 0
    return header


def fill_row(row: Any, frame: Any, letterbox: Letterbox, offset: int) -> None:
    """Write the row of an image.

    Args:
        row: row of ``header_of``.
        frame: frame on the GPU, region of one, or a frame in host memory, uint8 [h, w, 3], that is packed without gaps.
        letterbox: letterbox of the frame.
        offset: position of a frame in host memory in the packed frames, bytes.
    """
    region = frame if isinstance(frame, FrameRegion) else FrameRegion(frame, 0, 0, letterbox.frame_size)
    source = region.frame.pixels if isinstance(region.frame, GpuFrame) else region.frame
    kind = AT_ADDRESS
    if not isinstance(source, Pixels):
        kind, source = IN_FRAMES, Pixels(frame_size(source), offset, 3 * source.shape[1])
    if source.conversion is not None:
        kind = NV12
        for name, value in source.conversion._asdict().items():
            row[name] = value
    for name in ("chroma", "pitch", "pixel_step", "channel_step", "chroma_pitch"):
        row[name] = getattr(source, name)
    row["pixels"], row["kind"], row["top"], row["left"] = source.address, kind, region.top, region.left
    row["height"], row["width"] = region.size
    row["filled_height"], row["filled_width"] = region.filled
    row["resized_height"], row["resized_width"] = letterbox.resized
