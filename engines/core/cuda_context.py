"""NVIDIA's driver through pycuda, on the CUDA context that all other libraries in the process use too."""

from __future__ import annotations

import atexit
import threading
import traceback
from types import TracebackType
from typing import Any

from engines.core.errors import DeviceError, MissingDependencyError

# The driver and the primary context of each GPU in use. A context is retained once and released when the process ends,
# as in torch. pycuda cannot release it earlier: Context.detach leaves the context on the driver's stack, and does
# nothing in a thread other than the one that retained the context (cuda.hpp of pycuda 2026.1).
_retained: dict[int, tuple[Any, Any]] = {}
# CU_STREAM_NON_BLOCKING: the stream does not wait for the default stream, which torch and other libraries use.
NON_BLOCKING = 1
# Only one pycuda object may be made for a context, because pycuda tracks the resources of each object separately. The
# lock is reentrant, because the garbage collector may close an executor while the lock is held.
_lock = threading.RLock()


class primary_context:  # used like a function; as a generator it would cost each frame more time
    """Make a GPU's primary context current in this thread, and yield the module ``pycuda.driver``.

    torch and CUDA's runtime use the primary context too, so pointers can be shared with them. ``pycuda.autoinit`` would
    create a second context, which takes memory.

    An object can be entered again and again, in any thread, and inside itself.

    Args:
        device: number of the GPU.

    Raises:
        MissingDependencyError: if pycuda is not installed.
        DeviceError: if there is no driver or no such GPU, or if the work in the block fails on the GPU.
    """

    __slots__ = ("_context", "_device", "_driver")

    def __init__(self, device: int = 0) -> None:
        self._device = device

    def __enter__(self) -> Any:
        self._driver, self._context = _retained.get(self._device) or _retain(self._device)
        self._context.push()
        return self._driver

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if isinstance(error, Exception):
                self._translate(error)
        finally:
            self._context.pop()

    def _translate(self, error: Exception) -> None:
        # The frames of the traceback hold streams, events and modules. Free them while the context is current.
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, self._driver.MemoryError):
            raise DeviceError(
                f"GPU {self._device}: expected memory for this model, found too little ({error}); close other programs "
                "on the GPU, keep fewer frames in flight, or build with a smaller batch"
            ) from error
        if isinstance(error, self._driver.Error):
            raise DeviceError(f"GPU {self._device}: {error}") from error


def _retain(device: int) -> tuple[Any, Any]:
    """Return the driver and a GPU's primary context, which the first call retains."""
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise MissingDependencyError(
            f"using the GPU: expected pycuda, got an import error ({error}); install it with pip install pycuda, which "
            "compiles it and therefore needs the CUDA toolkit, with nvcc on PATH and its headers on CPATH"
        ) from error
    with _lock:
        if device not in _retained:
            try:
                driver.init()
                _retained[device] = driver, driver.Device(device).retain_primary_context()
            except driver.Error as error:
                raise DeviceError(
                    f"GPU {device}: expected an NVIDIA GPU and its driver, found none ({error}); check the "
                    "installation with retina-edge doctor"
                ) from error
        return _retained[device]


@atexit.register
def _release() -> None:
    """Release the contexts while the driver is still loaded; pycuda would release them too late."""
    while _retained:
        _, context = _retained.popitem()[1]
        context.push()
        context.detach()
