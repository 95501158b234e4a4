"""NVIDIA's driver through pycuda, on the CUDA context that all other libraries in the process use too."""

from __future__ import annotations

import atexit
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engines.core.errors import DeviceError, MissingDependencyError

# The primary context of each GPU in use. It is retained once and released when the process ends, as in torch. pycuda
# cannot release it earlier: Context.detach leaves the context on the driver's stack, and does nothing in a thread other
# than the one that retained the context (cuda.hpp of pycuda 2026.1).
_retained: dict[int, Any] = {}
# CU_STREAM_NON_BLOCKING: the stream does not wait for the default stream, which torch and other libraries use.
NON_BLOCKING = 1
# Only one pycuda object may be made for a context, because pycuda tracks the resources of each object separately. The
# lock is reentrant, because the garbage collector may close an executor while the lock is held.
_lock = threading.RLock()


@contextmanager
def primary_context(device: int = 0) -> Iterator[Any]:
    """Make a GPU's primary context current in this thread, and yield the module ``pycuda.driver``.

    torch and CUDA's runtime use the primary context too, so pointers can be shared with them. ``pycuda.autoinit`` would
    create a second context, which takes memory.

    Args:
        device: number of the GPU.

    Raises:
        MissingDependencyError: if pycuda is not installed.
        DeviceError: if there is no driver or no such GPU, or if the work in the block fails on the GPU.
    """
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise MissingDependencyError(
            f"using the GPU: expected pycuda, got an import error ({error}); install it with pip install pycuda, which "
            "compiles it and therefore needs the CUDA toolkit, with nvcc on PATH and its headers on CPATH"
        ) from error
    context = _retain(driver, device)
    context.push()
    try:
        yield driver
    except Exception as error:
        # The frames of the traceback hold streams, events and modules. Free them while the context is current.
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, driver.MemoryError):
            raise DeviceError(
                f"GPU {device}: expected memory for this model, found too little ({error}); close other programs on "
                "the GPU, keep fewer frames in flight, or build with a smaller batch"
            ) from error
        if isinstance(error, driver.Error):
            raise DeviceError(f"GPU {device}: {error}") from error
        raise
    finally:
        context.pop()


def _retain(driver: Any, device: int) -> Any:
    """Return a GPU's primary context; retain it on the first call."""
    with _lock:
        if device not in _retained:
            try:
                driver.init()
                _retained[device] = driver.Device(device).retain_primary_context()
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
        context = _retained.popitem()[1]
        context.push()
        context.detach()
