"""A pool of memory for frames: decoders fill its frames, and executors read them from where they lie.

A frame owns a block of the pool's memory until the last array, view or buffer of the frame is gone. The block then
returns to the pool, because new memory costs a page fault for every page of a frame.
"""

from __future__ import annotations

import mmap
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.core.letterbox import BgrImage
from engines.core.option_checks import check_integer

# Largest size of all blocks of a pool together: 86 frames of 1080p, or 21 of 4K.
POOL_BYTES = 512 << 20

Memory = npt.NDArray[np.uint8]


class Pin(Protocol):
    """A hold on memory that lets the GPU access it directly.

    Attributes:
        device: address at which the GPU reads the memory in place; None if the memory must be copied to the GPU.
    """

    device: int | None

    def free(self) -> None:
        """Let go of the memory, which remains valid for the host. The GPU must not be using it."""
        ...


class Block:
    """Memory for one frame.

    Args:
        size: number of bytes, a multiple of the page size.

    Attributes:
        memory: the bytes, uint8 [size], from the start of a page.
        pin: hold of the GPU on the memory; None if there is none.
    """

    def __init__(self, size: int) -> None:
        whole = np.empty(size + mmap.PAGESIZE, np.uint8)
        begin = -whole.ctypes.data % mmap.PAGESIZE
        self.memory: Memory = whole[begin : begin + size]
        self.pin: Pin | None = None

    def device_address(self, frame: npt.NDArray[Any]) -> int | None:
        """Return the address at which the GPU reads a frame in this block in place; None if it must be copied there."""
        pin = self.pin
        if pin is None or pin.device is None:
            return None
        return pin.device + frame.ctypes.data - self.memory.ctypes.data

    def unpin(self) -> None:
        """Let the GPU go of the memory."""
        pin, self.pin = self.pin, None
        if pin is not None:
            pin.free()


class FramePool:
    """A bounded pool of frames. Thread-safe.

    Args:
        pin: function that lets the GPU access a block of memory; it returns None if that is impossible, and is then not
            called again. None for a pool without a GPU.
        max_bytes: largest size of all blocks together. Frames beyond it are ordinary arrays.

    Examples:
        >>> pool = FramePool()
        >>> frame = pool.take(48, 64)
        >>> frame.shape, pool.block_of(frame) is pool.block_of(frame[8:16])
        ((48, 64, 3), True)
        >>> address = frame.ctypes.data
        >>> del frame
        >>> pool.take(48, 64).ctypes.data == address
        True
    """

    def __init__(self, pin: Callable[[Memory], Pin | None] | None = None, *, max_bytes: int = POOL_BYTES) -> None:
        self._pin, self._max_bytes = pin, max_bytes
        # Reentrant, because the garbage collector may close the pool while its thread takes a frame.
        self._lock = threading.RLock()
        self._blocks: set[Block] = set()
        # Free blocks by size. A frame may end in any thread, even in one that holds the lock, so that giving back only
        # appends to a deque, which needs no lock.
        self._free: defaultdict[int, deque[Block]] = defaultdict(deque)
        self._nbytes = 0
        self._closed = False

    @property
    def nbytes(self) -> int:
        """Size of all blocks, bytes."""
        return self._nbytes

    def take(self, height: int, width: int) -> BgrImage:
        """Return a frame to write to: uint8 [height, width, 3]. Its pixels have arbitrary values.

        If the pool is full or closed, the frame is an ordinary array.

        Raises:
            ContractError: if a side is not an integer of at least 1.
        """
        check_integer("height", height, 1)
        check_integer("width", width, 1)
        block = self._take(-(-height * width * 3 // mmap.PAGESIZE) * mmap.PAGESIZE)
        if block is None:
            return np.empty((height, width, 3), np.uint8)
        return np.asarray(_Loan(self, block, (height, width, 3)))

    def place(self, image: BgrImage) -> BgrImage:
        """Return an image, uint8 [height, width, 3], where the GPU can access it: copied to a frame of a pinned pool.

        Without a GPU, the image itself is returned.
        """
        if self._pin is None or self.block_of(image) is not None:
            return image
        frame = self.take(image.shape[0], image.shape[1])
        if self.block_of(frame) is None:
            return image
        np.copyto(frame, image)
        return frame

    def block_of(self, frame: npt.NDArray[Any]) -> Block | None:
        """Return the block in which a frame or a view of it lies without gaps; None if it does not lie in this pool."""
        base: Any = frame.base
        while isinstance(base, np.ndarray):
            base = base.base
        return base.block if type(base) is _Loan and base.pool is self and frame.flags.c_contiguous else None

    def pinned_block_of(self, frame: npt.NDArray[Any]) -> Block | None:
        """Return the block of a frame as ``block_of`` does, if the GPU can access it; else None."""
        block = self.block_of(frame)
        return block if block is not None and block.pin is not None else None

    def give_back(self, block: Block) -> None:
        """Take back the block of a frame that has ended."""
        if not self._closed:
            self._free[len(block.memory)].append(block)

    def close(self) -> None:
        """Let the GPU go of all memory, which must not be in use there. Frames that are still held remain valid."""
        with self._lock:
            self._closed = True
            for block in self._blocks:
                block.unpin()
            self._blocks.clear()
            self._free.clear()
            self._nbytes = 0

    def _take(self, size: int) -> Block | None:
        with self._lock:
            if self._closed:
                return None
            if free := self._free[size]:
                return free.pop()
            self._make_room(size)
            if self._nbytes + size > self._max_bytes:
                return None
            block = Block(size)
            self._blocks.add(block)
            self._nbytes += size
            if self._pin is not None:
                block.pin = self._pin(block.memory)
                if block.pin is None:
                    self._pin = None
                if self._closed:
                    block.unpin()
            return block

    def _make_room(self, size: int) -> None:
        """Drop free blocks, which have other sizes, until a new block fits into the pool."""
        for free in list(self._free.values()):
            while free and self._nbytes + size > self._max_bytes:
                block = free.popleft()
                self._blocks.remove(block)
                self._nbytes -= len(block.memory)
                block.unpin()


class _Loan:
    """The ownership of a block: NumPy keeps it as the base of a frame and its views, so it ends with the last of them.

    Args:
        pool, block: the block and its pool.
        shape: shape of the frame.
    """

    def __init__(self, pool: FramePool, block: Block, shape: tuple[int, ...]) -> None:
        self.pool, self.block = pool, block
        data = (block.memory.ctypes.data, False)
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": "|u1", "data": data}

    def __del__(self) -> None:
        self.pool.give_back(self.block)
