"""Memory that the host and the GPU both see: pinned, with a copy on the device, or one and the same on a Jetson."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class SharedMemory:
    """A block on both sides.

    On a GPU of its own memory the device has a second block, and ``to_device`` and ``to_host`` copy. On an integrated
    one, as a Jetson's, both are the same memory, and they do nothing.

    Args:
        driver: from ``engines.core.cuda_context.primary_context``; its context must be current here and in every call.
        nbytes: how much.
        integrated: the GPU has no memory of its own.

    Attributes:
        host: uint8 [nbytes], pinned; valid until ``free``.
        device: the device's address of it.
    """

    def __init__(self, driver: Any, nbytes: int, *, integrated: bool) -> None:
        self._driver = driver
        flags = driver.host_alloc_flags.DEVICEMAP if integrated else 0
        self.host: npt.NDArray[np.uint8] = driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        self._pinned: Any = self.host.base  # pycuda's array holds its allocation there
        self._allocation: Any = None
        try:
            if not integrated:
                self._allocation = driver.mem_alloc(nbytes)
            self.device = int(self._pinned.get_device_pointer() if integrated else self._allocation)
        except driver.Error:
            self._pinned.free()
            raise

    def to_device(self, stream: Any, begin: int = 0, end: int | None = None) -> None:
        """Copies bytes from ``begin`` to ``end``, or all, when the stream comes to it."""
        if self._allocation is not None:
            self._driver.memcpy_htod_async(self.device + begin, self.host[begin:end], stream)

    def to_host(self, stream: Any) -> None:
        """Copies all of it, when the stream comes to it."""
        if self._allocation is not None:
            self._driver.memcpy_dtoh_async(self.host, self.device, stream)

    def free(self) -> None:
        """Gives the memory back; nothing may be using it any more."""
        if self._allocation is not None:
            self._allocation.free()
        self._pinned.free()
