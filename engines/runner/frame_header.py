"""The header of the letterbox kernel: one row for each image, which says where its pixels are."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.frame_region import FrameRegion
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
# The same fields for the module struct, which writes a row several times as fast as NumPy.
_ROW = struct.Struct("<2q13i6fi")
_NO_CONVERSION = (0.0,) * len(YuvToBgr._fields)


def write_row(
    out: npt.NDArray[np.uint8], image: int, frame: GpuFrame | FrameRegion | None, letterbox: Letterbox, offset: int = 0
) -> None:
    """Write the row of an image into the header at the beginning of a block of memory, which was zero before.

    Args:
        out: block of memory, uint8.
        image: number of the image.
        frame: frame on the GPU, or region of one; None for a frame from host memory, uint8 [h, w, 3], without gaps.
        letterbox: letterbox of the frame.
        offset: distance of a frame from host memory to the start of the header, bytes; it may lie outside of the block.
    """
    if frame is None:
        size = letterbox.frame_size
        row = (offset, 0, IN_FRAMES, 3 * size[1], 3, 1, 0, 0, 0, *size, *size, *letterbox.resized, *_NO_CONVERSION, 0)
    else:
        row = _row_on_gpu(frame, letterbox)
    _ROW.pack_into(out.data, image * HEADER.itemsize, *row)


def header_offsets(memory: npt.NDArray[np.uint8], batch: int) -> npt.NDArray[np.int64]:
    """Return the offset or address of each frame in a header at the start of memory: a view, int64 [batch]."""
    rows: npt.NDArray[Any] = memory[: batch * HEADER.itemsize].view(HEADER)
    return rows["pixels"]


def _row_on_gpu(frame: GpuFrame | FrameRegion, letterbox: Letterbox) -> tuple[float, ...]:
    region = frame if isinstance(frame, FrameRegion) else FrameRegion(frame, 0, 0, frame.size)
    source = region.frame.pixels if isinstance(region.frame, GpuFrame) else region.frame
    assert isinstance(source, Pixels)
    kind = AT_ADDRESS if source.conversion is None else NV12
    steps = (source.pitch, source.pixel_step, source.channel_step, source.chroma_pitch)
    rectangle = (region.top, region.left, *region.size, *region.filled, *letterbox.resized)
    return (source.address, source.chroma, kind, *steps, *rectangle, *(source.conversion or _NO_CONVERSION), 0)
