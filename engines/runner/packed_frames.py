"""The format in which the letterbox kernel reads frames of any sizes: a header, and each frame at its own offset."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.core.frame_region import Frame, FrameRegion, frame_size
from engines.core.gpu_frame import GpuFrame
from engines.core.letterbox import Letterbox
from engines.core.tensor_names import INPUT
from engines.plugins.launch import Launch, Tensor
from engines.runner.frame_header import HEADER, write_row

# Constants that must agree with letterbox.cu: pixels of a thread and threads of a block.
PIXELS, THREADS = 4, 256
# Alignment of the header's end and of each frame, bytes.
UNIT = 256
FRAMES = "frames"


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


@dataclass(frozen=True, eq=False)
class Layout:
    """The places of frames in memory. Frames in host memory get one each; those on the GPU stay where they are.

    Attributes:
        letterboxes: letterbox of each frame.
        positions: position of the first byte of each frame from host memory; 0 for frames on the GPU.
        nbytes: number of bytes up to the end of the last frame.
        header: the header, uint8 [n]; read-only.
    """

    letterboxes: tuple[Letterbox, ...]
    positions: tuple[int, ...]
    nbytes: int
    header: npt.NDArray[np.uint8]


def layout_of(frames: Sequence[Frame], input_size: tuple[int, int], batch: int) -> Layout:
    """Return the layout of frames. If all are in host memory, it is computed only once for frames of the same sizes.

    Args:
        frames: BGR frames, uint8 [h, w, 3]; frames on the GPU and regions of them.
        input_size: (height, width) of the network's input, pixels.
        batch: number of images that the kernel writes; images without a frame become zero.

    Examples:
        >>> frames = [np.zeros((10, 10, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)]
        >>> layout = layout_of(frames, (32, 32), batch=3)
        >>> layout.positions, layout.nbytes, len(layout.header)
        ((512, 1024), 1072, 512)
    """
    on_gpu = [None if isinstance(frame, np.ndarray) else frame for frame in frames]
    sizes = tuple([frame_size(frame) for frame in frames])
    if on_gpu.count(None) < len(on_gpu):
        return _lay_out(sizes, on_gpu, input_size, batch)
    return _lay_out_host_frames(sizes, input_size, batch)


@functools.lru_cache(maxsize=128)
def _lay_out_host_frames(sizes: tuple[tuple[int, int], ...], input_size: tuple[int, int], batch: int) -> Layout:
    return _lay_out(sizes, (None,) * len(sizes), input_size, batch)


def _lay_out(
    sizes: Sequence[tuple[int, int]],
    on_gpu: Sequence[GpuFrame | FrameRegion | None],
    input_size: tuple[int, int],
    batch: int,
) -> Layout:
    letterboxes = tuple(Letterbox.fit(size, input_size) for size in sizes)
    header = np.zeros(_aligned(batch * HEADER.itemsize), np.uint8)  # a row of zeros means no frame
    positions, end = [], len(header)
    for image, (frame, letterbox) in enumerate(zip(on_gpu, letterboxes, strict=True)):
        position = 0
        if frame is None:
            position = _aligned(end)
            end = position + letterbox.frame_size[0] * letterbox.frame_size[1] * 3
        positions.append(position)
        write_row(header, image, frame, letterbox, position)
    header.flags.writeable = False
    return Layout(letterboxes, tuple(positions), end, header)


def _aligned(count: int) -> int:
    return math.ceil(count / UNIT) * UNIT
