"""NVIDIA's driver through pycuda, on the context that everything else in the process uses too."""

from __future__ import annotations

import atexit
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engines.core.errors import DeviceError, MissingDependencyError

# The primary context of each GPU that was used, retained once and given back when the process ends, as torch does too.
# pycuda cannot do it in between: Context.detach leaves the context on the driver's stack, and away from the thread that
# retained it does nothing at all (its cuda.hpp, 2026.1).
_retained: dict[int, Any] = {}
# CU_STREAM_NON_BLOCKING: does not wait for the default stream, which torch and others use.
NON_BLOCKING = 1
# Two of pycuda's objects for one context do not know what belongs to the other. Reentrant: the garbage collector may
# close an executor in the middle of it.
_lock = threading.RLock()


@contextmanager
def primary_context(device: int = 0) -> Iterator[Any]:
    """The module ``pycuda.driver`` with a GPU's primary context current in this thread.

    The primary context is the one that torch and CUDA's run time use: pointers can be shared with them, and no
    second context takes memory. ``pycuda.autoinit`` would make one.

    Raises:
        MissingDependencyError: pycuda is not installed.
        DeviceError: there is no driver, or no such GPU; or what is done inside fails on the GPU.
    """
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise MissingDependencyError(
            f"pycuda: expected it, to use the GPU ({error}); install it with pip install pycuda, "
            "which compiles it and needs the CUDA toolkit: nvcc on PATH, its headers on CPATH"
        ) from error
    context = _retain(driver, device)
    context.push()
    try:
        yield driver
    except Exception as error:
        # What its frames hold, streams and events and modules, has to be freed while the context is current.
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, driver.MemoryError):
            raise DeviceError(
                f"GPU {device}: expected memory for this model, found too little ({error}); end other programs on the "
                "GPU, keep fewer frames in flight, or build with a smaller batch"
            ) from error
        if isinstance(error, driver.Error):
            raise DeviceError(f"GPU {device}: {error}") from error
        raise
    finally:
        context.pop()


def _retain(driver: Any, device: int) -> Any:
    with _lock:
        if device not in _retained:
            try:
                driver.init()
                _retained[device] = driver.Device(device).retain_primary_context()
            except driver.Error as error:
                raise DeviceError(
                    f"GPU {device}: expected an NVIDIA GPU and its driver, found none ({error})"
                ) from error
        return _retained[device]


@atexit.register
def _release() -> None:
    """While the driver is still there; pycuda would do it too late."""
    while _retained:
        context = _retained.popitem()[1]
        context.push()
        context.detach()
