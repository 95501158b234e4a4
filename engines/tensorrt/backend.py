"""The choice of the library that builds or runs an engine.

TensorRT and TensorRT-RTX build and run engines; TensorRT-RTX needs no GPU to build. TensorRT's lean runtime has no
builder: it runs version-compatible engines of TensorRT on machines without TensorRT.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import cast

from engines.core.errors import DeviceError, MissingDependencyError
from engines.core.machine import Machine
from engines.tensorrt.api import TensorRT

TENSORRT, TENSORRT_RTX, TENSORRT_LEAN = "tensorrt", "tensorrt-rtx", "tensorrt-lean"
BACKENDS = (TENSORRT, TENSORRT_RTX)  # those that build
# Each module, and an attribute that tells it from a folder of type stubs, which can be imported, too.
_MODULES = {
    TENSORRT: ("tensorrt", "Builder"),
    TENSORRT_RTX: ("tensorrt_rtx", "Builder"),
    TENSORRT_LEAN: ("tensorrt_lean", "Runtime"),
}
JETPACK_COMMAND = "sudo apt-get install nvidia-jetpack"
# The first TensorRT that has INT8 convolutions in strongly typed networks, uint8 inputs and progress monitors.
MIN_VERSION = (10, 3)


@dataclass(frozen=True)
class Backend:
    """An installed library that builds or runs engines.

    Attributes:
        name: ``tensorrt``, ``tensorrt-rtx`` or ``tensorrt-lean``, which only runs engines.
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

    @property
    def is_lean(self) -> bool:
        """True for TensorRT's lean runtime."""
        return self.name == TENSORRT_LEAN


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


def find_runtime(built_by: str, machine: Machine, *, lean: bool) -> Backend:
    """Import the library that runs an engine: the one that built it, or TensorRT's lean runtime instead of TensorRT.

    The lean runtime is only taken if TensorRT is not installed. Not every engine of TensorRT runs on it;
    ``check_runs_here`` refuses the others.

    Args:
        built_by: backend that built the engine: ``tensorrt`` or ``tensorrt-rtx``.
        machine: machine that runs the engine; it has a GPU.
        lean: True if the lean runtime can run the engine, so that an error recommends it.

    Raises:
        MissingDependencyError: if the library is not installed; the message says what to install.
        DeviceError: if TensorRT is too old.
        ValueError: if the name is unknown.

    Examples:
        >>> from engines.core.machine import this_machine
        >>> find_runtime("tensorrt-rtx", this_machine(), lean=False).name
        'tensorrt-rtx'
    """
    if built_by == TENSORRT and _load(TENSORRT) is None:
        backend = _load(TENSORRT_LEAN)
        if backend is not None:
            return _checked_version(backend)
        if lean and not machine.jetpack:
            raise MissingDependencyError(
                "expected TensorRT or its lean runtime, found neither; install the lean runtime with pip install "
                f"'retina-edge[lean]', or TensorRT with {_install_command(machine)}"
            )
    return find_backend(built_by, machine)


def _install_command(machine: Machine) -> str:
    """Return the command that installs TensorRT on a machine."""
    if machine.jetpack:
        return f"{JETPACK_COMMAND}, and make the virtual environment with --system-site-packages, so that it sees it"
    return "pip install 'retina-edge[tensorrt]'"


def _load(name: str) -> Backend | None:
    module_name, attribute = _MODULES[name]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:  # the package is installed, but a module that it imports is not
            raise MissingDependencyError(f"{name} does not load: {error}; install it again") from error
        return None
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"{name} does not load: {error}; install it again") from error
    return Backend(name, cast(TensorRT, module), module.__version__) if hasattr(module, attribute) else None


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
