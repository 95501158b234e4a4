"""NVIDIA's driver through pycuda, on the context that everything else in the process uses too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engines.errors import DeviceError, MissingDependencyError


@contextmanager
def primary_context(device: int = 0) -> Iterator[Any]:
    """The module ``pycuda.driver`` with a GPU's primary context current in this thread.

    The primary context is the one that torch and CUDA's run time use: pointers can be shared with them, and no
    second context takes memory. ``pycuda.autoinit`` would make one.

    Raises:
        MissingDependencyError: pycuda is not installed.
        DeviceError: there is no driver, or no such GPU.
    """
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise MissingDependencyError(
            f"pycuda: expected it, to use the GPU ({error}); install it with pip install 'retina-edge[tensorrt]'"
        ) from error
    try:
        driver.init()
        context = driver.Device(device).retain_primary_context()
    except driver.Error as error:
        raise DeviceError(f"GPU {device}: expected an NVIDIA GPU and its driver, found none ({error})") from error
    context.push()
    try:
        yield driver
    finally:
        context.pop()
        context.detach()
