"""Pin memory of the host, so that the GPU copies it, or on a Jetson reads it, from where it lies.

The memory is registered and not allocated by the driver: after the registration has ended, it is ordinary memory, and
arrays that a user still holds remain valid. (``register_host_memory`` of pycuda 2026.1 fails with NumPy 2, so that
cuda-bindings is used.)
"""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt

from engines.core.cuda_context import primary_context
from engines.core.errors import DeviceError, MissingDependencyError
from engines.runner.bindings import call, load_bindings

# CU_MEMHOSTREGISTER_DEVICEMAP: the GPU can read the memory in place.
DEVICE_MAP = 2

log = logging.getLogger(__name__)


class PinnedMemory:
    """Memory of the host that is registered for a GPU.

    Args:
        memory: bytes of whole pages, uint8 [n].
        gpu: number of the GPU.
        integrated: True if the GPU shares the memory of the host and reads it in place.

    Attributes:
        device: address at which the GPU reads the memory in place; None if it is copied to the GPU.

    Raises:
        MissingDependencyError: if cuda-bindings is not installed.
        DeviceError: if the driver cannot register the memory.
    """

    def __init__(self, memory: npt.NDArray[np.uint8], *, gpu: int, integrated: bool) -> None:
        self._gpu, self._address = gpu, memory.ctypes.data
        self._bindings = load_bindings("pinned frames")
        self.device: int | None = None
        with primary_context(gpu):
            flags = DEVICE_MAP if integrated else 0
            call(self._bindings, "cuMemHostRegister", self._address, memory.nbytes, flags)
            try:
                if integrated:
                    self.device = int(call(self._bindings, "cuMemHostGetDevicePointer", self._address, 0))
            except DeviceError:
                self.free()
                raise

    def free(self) -> None:
        """End the registration. The GPU must not be using the memory."""
        with primary_context(self._gpu):
            call(self._bindings, "cuMemHostUnregister", self._address)


def pin_memory(memory: npt.NDArray[np.uint8], *, gpu: int, integrated: bool) -> PinnedMemory | None:
    """Register memory for a GPU; None, with a warning, if that is impossible. The arguments are of ``PinnedMemory``."""
    try:
        return PinnedMemory(memory, gpu=gpu, integrated=integrated)
    except (DeviceError, MissingDependencyError) as error:
        log.warning("frames are not pinned, each is copied before its upload: %s", error)
        return None
