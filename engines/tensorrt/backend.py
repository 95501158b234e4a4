"""The choice of the library that builds an engine: TensorRT, or TensorRT-RTX, which needs no GPU to build."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import cast

from engines.core.errors import DeviceError, MissingDependencyError
from engines.core.machine import Machine
from engines.tensorrt.api import TensorRT

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt-rtx"
BACKENDS = (TENSORRT, TENSORRT_RTX)
_MODULES = {TENSORRT: "tensorrt", TENSORRT_RTX: "tensorrt_rtx"}
JETPACK_COMMAND = "sudo apt-get install nvidia-jetpack"
# The first TensorRT that has INT8 convolutions in strongly typed networks, uint8 inputs and progress monitors.
MIN_VERSION = (10, 3)


@dataclass(frozen=True)
class Backend:
    """An installed library that builds and runs engines.

    Attributes:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        module: Python module of the library.
        version: version of the library.
    """

    name: str
    module: TensorRT
    version: str

    @property
    def is_rtx(self) -> bool:
        """True for TensorRT-RTX."""
        return self.name == TENSORRT_RTX


def find_backend(name: str, machine: Machine) -> Backend:
    """Import the requested backend.

    Args:
        name: ``tensorrt``, ``tensorrt-rtx`` or ``auto``. ``auto`` means TensorRT if it is installed and the machine has
            a GPU, else TensorRT-RTX.
        machine: machine that builds the engine.

    Raises:
        MissingDependencyError: if the backend is not installed; the message says what to install.
        DeviceError: if TensorRT is requested on a machine without a GPU, or TensorRT is too old.
        ValueError: if the name is unknown.
    """
    if name == TENSORRT:
        backend = _load(TENSORRT)
        if backend is None:
            raise MissingDependencyError(
                f"backend tensorrt: expected TensorRT, found none; install it with {_install_command(machine)}"
            )
        if not machine.gpu:
            raise DeviceError(
                "backend tensorrt: expected an NVIDIA GPU, which TensorRT needs to build, found none; build on the "
                "machine that will run the engine, or with the backend tensorrt-rtx, which needs no GPU to build"
            )
        return _checked_version(backend)
    if name == TENSORRT_RTX:
        backend = _load(TENSORRT_RTX)
        if backend is None:
            raise MissingDependencyError(
                "backend tensorrt-rtx: expected TensorRT-RTX, found none; "
                + (
                    "it is for desktop GPUs: on a Jetson, build and run engines with the backend tensorrt"
                    if machine.jetpack
                    else "install it with pip install 'retina-edge[tensorrt-rtx]' (Linux on x86_64)"
                )
            )
        return backend
    if name != "auto":
        raise ValueError(f"backend: expected auto, {' or '.join(BACKENDS)}, got {name!r}")
    backend = (_load(TENSORRT) if machine.gpu else None) or _load(TENSORRT_RTX)
    if backend is None:
        raise MissingDependencyError(
            "backend auto: expected TensorRT and a GPU, or TensorRT-RTX, found neither; install one with "
            + (
                _install_command(machine)
                if machine.gpu
                else "pip install 'retina-edge[tensorrt-rtx]' (Linux on x86_64), which needs no GPU to build"
            )
        )
    return backend if backend.is_rtx else _checked_version(backend)


def _install_command(machine: Machine) -> str:
    """Return the command that installs TensorRT on a machine."""
    if machine.jetpack:
        return f"{JETPACK_COMMAND}, and make the virtual environment with --system-site-packages, so that it sees it"
    return "pip install 'retina-edge[tensorrt]'"


def _load(name: str) -> Backend | None:
    try:
        module = importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != _MODULES[name]:  # the package is installed, but a module that it imports is not
            raise MissingDependencyError(f"{name} does not load: {error}; install it again") from error
        return None
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"{name} does not load: {error}; install it again") from error
    # A folder of type stubs can be imported too, but has no Builder.
    return Backend(name, cast(TensorRT, module), module.__version__) if hasattr(module, "Builder") else None


def _checked_version(backend: Backend) -> Backend:
    """Return the backend, or raise DeviceError if TensorRT is older than ``MIN_VERSION``."""
    numbers = tuple(map(int, re.findall(r"\d+", backend.version)[:2]))
    if numbers < MIN_VERSION:
        oldest = ".".join(map(str, MIN_VERSION))
        raise DeviceError(
            f"TensorRT: expected {oldest} or newer, for strongly typed networks, got {backend.version}; upgrade it (on "
            "a Jetson, to JetPack 6.1 or newer)"
        )
    return backend
