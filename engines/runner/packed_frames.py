"""Pack frames of any sizes into one block of memory, from which the letterbox kernel reads them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from engines.core.frame_region import Frame
from engines.core.letterbox import Letterbox
from engines.core.tensor_names import INPUT
from engines.plugins.launch import Launch, Tensor
from engines.runner.frame_header import HEADER, write_row

# Constants that must agree with letterbox.cu: pixels of a thread and threads of a block.
PIXELS, THREADS = 4, 256
# Frames begin at multiples of this number of bytes.
UNIT = 256
FRAMES = "frames"
# Size of a part. While one part is uploaded, the next one is packed.
PART_BYTES = 1 << 20


def letterbox_launch(input_size: tuple[int, int], batch: int) -> Launch:
    """Return the launch that letterboxes packed frames.

    Args:
        input_size: (height, width) of the network's input, pixels.
        batch: number of images that the launch writes.

    Examples:
        >>> launch = letterbox_launch((416, 736), batch=1)
        >>> launch.grid, launch.outputs[0].shape
        ((299, 1), (1, 416, 736, 3))
    """
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
    """Return the number of bytes that packed frames take, including the header.

    Args:
        sizes: (height, width) of each frame in host memory, pixels.
        batch: number of images in the header.

    Examples:
        >>> packed_bytes([(10, 10), (4, 4)], batch=2)
        1024
    """
    return _header_bytes(batch) + sum(_aligned(height * width * 3) for height, width in sizes)


def pack(
    frames: Sequence[Frame],
    letterboxes: Sequence[Letterbox],
    batch: int,
    out: npt.NDArray[np.uint8],
) -> Iterator[tuple[int, int]]:
    """Write frames in the format that the kernel reads, part by part.

    Args:
        frames: BGR frames, uint8 [h, w, 3], any strides; of frames on the GPU and their regions, only the header is
            written.
        letterboxes: letterbox of each frame.
        batch: number of images that the kernel writes; images without a frame become zero.
        out: memory to write to, uint8, at least ``packed_bytes`` bytes.

    Yields:
        The positions of the first byte of a part and of the byte after its last, as soon as the part is written.

    Examples:
        >>> frame, letterbox = np.zeros((4, 4, 3), np.uint8), Letterbox.fit((4, 4), (32, 32))
        >>> out = np.zeros(packed_bytes([(4, 4)], batch=1), np.uint8)
        >>> list(pack([frame], [letterbox], batch=1, out=out))
        [(0, 304)]
    """
    begin, position = 0, _header_bytes(batch)
    in_host_memory = [frame for frame in frames if isinstance(frame, np.ndarray)]
    out[:position] = 0  # a row of zeros means no frame
    for image, (frame, letterbox) in enumerate(zip(frames, letterboxes, strict=True)):
        write_row(out, image, frame, letterbox, position)
        if isinstance(frame, np.ndarray):
            position += _aligned(frame.size)
    position = _header_bytes(batch)
    if not in_host_memory:
        yield 0, position
    for frame in in_host_memory:
        target = out[position : position + frame.size].reshape(frame.shape)
        row_bytes = frame.size // len(frame)
        rows = max(1, PART_BYTES // row_bytes)
        for first in range(0, len(frame), rows):
            target[first : first + rows] = frame[first : first + rows]
            end = position + min(first + rows, len(frame)) * row_bytes
            yield begin, end
            begin = end
        position += _aligned(frame.size)


def _header_bytes(batch: int) -> int:
    return _aligned(batch * HEADER.itemsize)


def _aligned(count: int) -> int:
    return math.ceil(count / UNIT) * UNIT
