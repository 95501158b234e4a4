"""Frames of any sizes in one block of memory, and the kernel that letterboxes them from there."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.letterbox import Letterbox
from engines.core.tensor_names import INPUT
from engines.plugins.launch import Launch, Tensor

# Of letterbox.cu: pixels and threads of a block, and what its header counts in.
PIXELS, THREADS = 4, 256
HEADER, UNIT = 8, 256
FRAMES = "frames"
# Bytes that are copied at a time: while one part goes up to the GPU, the next one is packed.
PART = 1 << 20


def letterbox_launch(input_size: tuple[int, int], batch: int) -> Launch:
    """The launch that makes ``batch`` images of (height, width) from packed frames."""
    height, width = input_size
    return Launch(
        entry="letterbox",
        grid=(math.ceil(height * width / (PIXELS * THREADS)), batch),
        block=THREADS,
        inputs=(FRAMES,),
        integers=(height, width),
        outputs=(Tensor(INPUT, (batch, height, width, 3), "uint8"),),
    )


def packed_bytes(sizes: Sequence[tuple[int, int]], batch: int) -> int:
    """Bytes that frames of (height, width) take, header for ``batch`` images included."""
    return _header_bytes(batch) + sum(_aligned(height * width * 3) for height, width in sizes)


def pack(
    frames: Sequence[npt.NDArray[np.uint8]],
    letterboxes: Sequence[Letterbox],
    batch: int,
    out: npt.NDArray[np.uint8],
) -> Iterator[tuple[int, int]]:
    """Writes frames as the kernel reads them, and gives after each part where it begins and ends, bytes.

    Args:
        frames: BGR, uint8 [h, w, 3], any strides.
        letterboxes: of each.
        batch: images to make; those past the frames become zero.
        out: uint8, at least ``packed_bytes``.
    """
    begin, position = 0, _header_bytes(batch)
    header: npt.NDArray[Any] = out[: batch * HEADER * 4].view(np.int32).reshape(batch, HEADER)
    header[:] = 0
    for row, frame, letterbox in zip(header, frames, letterboxes, strict=False):
        row[:5] = position // UNIT, *letterbox.frame_size, *letterbox.resized
        position += _aligned(frame.size)
    position = _header_bytes(batch)
    for frame in frames:
        target = out[position : position + frame.size].reshape(frame.shape)
        row_bytes = frame.size // len(frame)
        rows = max(1, PART // row_bytes)
        for first in range(0, len(frame), rows):
            target[first : first + rows] = frame[first : first + rows]
            end = position + min(first + rows, len(frame)) * row_bytes
            yield begin, end
            begin = end
        position += _aligned(frame.size)


def _header_bytes(batch: int) -> int:
    return _aligned(batch * HEADER * 4)


def _aligned(count: int) -> int:
    return math.ceil(count / UNIT) * UNIT
