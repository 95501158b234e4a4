"""Pictures that are uploaded once, and of which several submissions read regions, such as tiles."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.frame_pool import FramePool
from engines.core.gpu_frame import Pixels
from engines.runner.packing import Packer
from engines.runner.shared_memory import SharedMemory

# Two blocks: one picture is uploaded while the tiles of the other one are read.
BLOCKS = 2


class Pictures:
    """Blocks of memory for pictures.

    A block is free again when nobody holds its ``Pixels`` anymore: neither the caller nor a submission in flight, whose
    ticket holds its regions.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``. Its context must be
            current here and in every call.
        pool: pool of the pictures that need no copy.
        packer: copies the others to pinned memory.
        integrated: True if the GPU shares the memory of the host.
    """

    def __init__(self, driver: Any, pool: FramePool, packer: Packer, *, integrated: bool) -> None:
        self._driver, self._pool, self._packer, self._integrated = driver, pool, packer, integrated
        self._blocks: list[_Block] = []

    def upload(self, picture: npt.NDArray[np.uint8], stream: Any, wait: Callable[[], bool]) -> Pixels:
        """Enqueue the upload of a picture: from the pool, or copied to pinned memory in parts.

        An integrated GPU reads a picture of the pool where it lies.

        Args:
            picture: uint8 [height, width, 3], BGR, any strides.
            stream: pycuda stream that uploads.
            wait: function that waits for the oldest submission in flight, and returns False if there is none. It is
                called if two blocks are taken; if that frees none, another block is allocated.

        Returns:
            Where the picture is. Its memory is used again when this object is gone.
        """
        height, width = picture.shape[:2]
        pooled = self._pool.pinned_block_of(picture)
        if pooled is not None and (address := pooled.device_address(picture)) is not None:
            return Pixels((height, width), address, 3 * width, owner=picture)
        block = self._free_block(picture.nbytes, wait)
        if pooled is not None:
            block.picture = picture
            self._driver.memcpy_htod_async(block.memory.device, picture, stream)
        else:
            for begin, end in self._packer.pack(picture, block.memory.host):
                block.memory.to_device(stream, begin, end)
        block.uploaded.record(stream)
        pixels = Pixels((height, width), block.memory.device, 3 * width)
        block.pixels = weakref.ref(pixels)
        return pixels

    def free(self) -> None:
        """Free all blocks, which must not be in use."""
        while self._blocks:
            self._blocks.pop().free()

    def _free_block(self, nbytes: int, wait: Callable[[], bool]) -> _Block:
        while not (free := [block for block in self._blocks if block.pixels() is None]):
            if len(self._blocks) < BLOCKS or not wait():
                self._blocks.append(_Block(self._driver, nbytes, integrated=self._integrated))
                return self._blocks[-1]
        block = max(free, key=lambda block: len(block.memory.host))
        block.uploaded.synchronize()  # nobody may have waited for it, if no submission read the picture
        block.picture = None
        if len(block.memory.host) < nbytes:
            self._blocks.remove(block)
            block.free()
            block = _Block(self._driver, nbytes, integrated=self._integrated)
            self._blocks.append(block)
        return block


class _Block:
    """Memory for a picture, the event at the end of its upload, and references to the picture in it."""

    def __init__(self, driver: Any, nbytes: int, *, integrated: bool) -> None:
        self.memory = SharedMemory(driver, nbytes, integrated=integrated)
        # Created last: if an allocation failed later, the traceback would keep the event alive after the context.
        self.uploaded: Any = driver.Event()
        self.pixels: Callable[[], Pixels | None] = lambda: None
        # A picture of the pool, which must not go back there before its upload has ended.
        self.picture: npt.NDArray[np.uint8] | None = None

    def free(self) -> None:
        self.picture = None
        self.memory.free()
        self.uploaded = None
