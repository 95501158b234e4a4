"""Memory for transfers between host and GPU: two blocks with a discrete GPU, one shared block on a Jetson."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class SharedMemory:
    """A block of memory that host and GPU can access.

    A discrete GPU has a second block in its own memory, and ``to_device`` and ``to_host`` copy between the two. An
    integrated GPU, as on a Jetson, shares the memory of the host, and these methods do nothing.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``. Its context must be
            current here and in every call.
        nbytes: size of the block, bytes.
        integrated: True if the GPU shares the memory of the host.

    Attributes:
        host: pinned host memory, uint8 [nbytes]; valid until ``free``.
        device: device address of the block.
    """

    def __init__(self, driver: Any, nbytes: int, *, integrated: bool) -> None:
        self._driver = driver
        flags = driver.host_alloc_flags.DEVICEMAP if integrated else 0
        self.host: npt.NDArray[np.uint8] = driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        self._pinned: Any = self.host.base  # the base of pycuda's array is its allocation
        self._allocation: Any = None
        try:
            if not integrated:
                self._allocation = driver.mem_alloc(nbytes)
            self.device = int(self._pinned.get_device_pointer() if integrated else self._allocation)
        except driver.Error:
            self._pinned.free()
            raise

    def to_device(self, stream: Any, begin: int = 0, end: int | None = None) -> None:
        """Enqueue an upload of the bytes from ``begin`` to ``end`` on a stream; by default, of all bytes."""
        if self._allocation is not None:
            self._driver.memcpy_htod_async(self.device + begin, self.host[begin:end], stream)

    def to_host(self, stream: Any) -> None:
        """Enqueue a download of the whole block on a stream."""
        if self._allocation is not None:
            self._driver.memcpy_dtoh_async(self.host, self.device, stream)

    def free(self) -> None:
        """Free the memory, which must not be in use."""
        if self._allocation is not None:
            self._allocation.free()
        self._pinned.free()
