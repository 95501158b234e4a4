"""The memory from which the letterbox kernel reads the frames of one submission."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from engines.core.frame_pool import FramePool
from engines.core.frame_region import Frame
from engines.runner.frame_header import header_offsets
from engines.runner.packed_frames import Layout
from engines.runner.packing import Packer
from engines.runner.shared_memory import SharedMemory

# A position in the GPU's memory, and the pinned bytes to copy there.
Upload: TypeAlias = tuple[int, npt.NDArray[np.uint8]]


class FrameMemory:
    """Memory for a header and frames, and the frames that the GPU reads or copies from where they lie.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``. Its context must be
            current here and in every call.
        pool: pool of the frames that need not be packed.
        packer: packs the other frames.
        integrated: True if the GPU shares the memory of the host.

    Attributes:
        device: device address of the header; 0 before the first ``reserve``.
        nbytes: number of bytes that there is room for.
    """

    def __init__(self, driver: Any, pool: FramePool, packer: Packer, *, integrated: bool) -> None:
        self._driver, self._pool, self._packer, self._integrated = driver, pool, packer, integrated
        self._memory: SharedMemory | None = None
        self.device = self.nbytes = 0
        self._layout: Layout | None = None  # whose header is in the memory
        self._held: Sequence[Frame] = ()

    def reserve(self, nbytes: int) -> None:
        """Replace the memory by a block of so many bytes. Nothing may use the old one."""
        self.free()
        self._memory = SharedMemory(self._driver, nbytes, integrated=self._integrated)
        self.device, self.nbytes = self._memory.device, nbytes

    def fill(self, frames: Sequence[Frame], layout: Layout, batch: int) -> Iterator[Upload]:
        """Provide the frames of a submission: pack those that the GPU cannot access, and hold the others.

        Args:
            frames: BGR frames, uint8 [h, w, 3]; frames on the GPU and their regions, which are only held.
            layout: their layout, for which there must be room.
            batch: number of images in the header.

        Yields:
            The uploads to enqueue, each as soon as its bytes are there; with an integrated GPU, no frame of the pool.
        """
        assert self._memory is not None
        self._held, host = frames, self._memory.host
        if self._layout is not layout:
            self._layout, header = layout, host[: len(layout.header)]
            header[:] = layout.header
            yield 0, header
        for n, (frame, position) in enumerate(zip(frames, layout.positions, strict=True)):
            if not isinstance(frame, np.ndarray):
                continue
            block = self._pool.pinned_block_of(frame)
            address = None if block is None else block.device_address(frame)
            if block is None:
                for begin, end in self._packer.pack(frame, host[position:]):
                    yield position + begin, host[position + begin : position + end]
            elif address is None:
                yield position, frame
            if self._integrated:
                header_offsets(host, batch)[n] = position if address is None else address - self.device

    def upload(self, stream: Any, upload: Upload) -> None:
        """Enqueue an upload on a stream. An integrated GPU needs none."""
        if not self._integrated:
            position, source = upload
            self._driver.memcpy_htod_async(self.device + position, source, stream)

    def release(self) -> None:
        """Let go of the frames, because the submission is done."""
        self._held = ()

    def reset(self) -> None:
        """Let go of the frames and upload the header again, because the submission failed. Nothing may be running."""
        self._held, self._layout = (), None

    def free(self) -> None:
        """Free the memory, which must not be in use."""
        self.reset()
        if self._memory is not None:
            memory, self._memory, self.nbytes = self._memory, None, 0
            memory.free()
