"""Calls of the CUDA driver that pycuda lacks, through cuda-bindings."""

from __future__ import annotations

from typing import Any

from engines.core.errors import DeviceError, MissingDependencyError


def load_bindings(purpose: str) -> Any:
    """Return the module ``cuda.bindings.driver``.

    Args:
        purpose: what it is needed for, for the message.

    Raises:
        MissingDependencyError: if cuda-bindings is not installed.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise MissingDependencyError(
            f"{purpose}: expected the package cuda-bindings, found none ({error}); install it with "
            "pip install cuda-bindings"
        ) from error
    return driver


def call(bindings: Any, name: str, *arguments: Any, advice: str = "") -> Any:
    """Call a function of the driver and return its first value, or None if it has none.

    Args:
        bindings: the module, from ``load_bindings``. The primary context must be current.
        name: name of the function.
        arguments: its arguments.
        advice: end of the message if the function fails.

    Raises:
        DeviceError: if the function fails, or the driver is too old for it.
    """
    try:
        status, *values = getattr(bindings, name)(*arguments)
    except RuntimeError as error:  # the driver is too old
        raise DeviceError(f"{name}: {error}") from error
    if status != bindings.CUresult.CUDA_SUCCESS:
        raise DeviceError(f"{name}: {status.name}{advice}")
    return values[0] if values else None
