"""Which TensorRT builds the engine: TensorRT itself, or TensorRT-RTX, which needs no GPU to build."""

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
# Strongly typed networks with INT8 convolutions, uint8 inputs and progress monitors.
MIN_VERSION = (10, 3)


@dataclass(frozen=True)
class Backend:
    """One of the two, installed.

    Attributes:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        module: their common Python API.
        version: of the library.
    """

    name: str
    module: TensorRT
    version: str

    @property
    def is_rtx(self) -> bool:
        return self.name == TENSORRT_RTX


def find_backend(name: str, machine: Machine) -> Backend:
    """The backend asked for; ``auto`` takes TensorRT where it and a GPU are there, else TensorRT-RTX.

    Raises:
        MissingDependencyError: it is not installed; says what to install.
        DeviceError: TensorRT without a GPU, or one too old.
        ValueError: no such backend.
    """
    if name == TENSORRT:
        backend = _load(TENSORRT)
        if backend is None:
            raise MissingDependencyError(
                "backend tensorrt: expected TensorRT, found none; install it with "
                "pip install 'retina-edge[tensorrt]', on a Jetson with sudo apt-get install nvidia-jetpack"
            )
        if not machine.gpu:
            raise DeviceError(
                "backend tensorrt: expected an NVIDIA GPU, which it needs to build, found none; "
                "build with --backend tensorrt-rtx, which needs none, or on the machine that will run the engine"
            )
        return _not_too_old(backend)
    if name == TENSORRT_RTX:
        backend = _load(TENSORRT_RTX)
        if backend is None:
            raise MissingDependencyError(
                "backend tensorrt-rtx: expected TensorRT-RTX, found none; install it with "
                "pip install 'retina-edge[tensorrt-rtx]' (Linux on x86_64)"
            )
        return backend
    if name != "auto":
        raise ValueError(f"backend: expected auto, {' or '.join(BACKENDS)}, got {name!r}")
    backend = (_load(TENSORRT) if machine.gpu else None) or _load(TENSORRT_RTX)
    if backend is None:
        raise MissingDependencyError(
            "expected TensorRT with a GPU, or TensorRT-RTX, found neither; install with "
            + (
                "pip install 'retina-edge[tensorrt]', on a Jetson with sudo apt-get install nvidia-jetpack"
                if machine.gpu
                else "pip install 'retina-edge[tensorrt-rtx]' (Linux on x86_64), which needs no GPU to build"
            )
        )
    return backend if backend.is_rtx else _not_too_old(backend)


def _load(name: str) -> Backend | None:
    try:
        module = importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != _MODULES[name]:  # it is there, and one of its parts is not
            raise MissingDependencyError(f"{name} does not load: {error}; install it again") from error
        return None
    except (ImportError, OSError) as error:
        raise MissingDependencyError(f"{name} does not load: {error}; install it again") from error
    # Type stubs leave a folder that imports as well.
    return Backend(name, cast(TensorRT, module), module.__version__) if hasattr(module, "Builder") else None


def _not_too_old(backend: Backend) -> Backend:
    numbers = tuple(map(int, re.findall(r"\d+", backend.version)[:2]))
    if numbers < MIN_VERSION:
        oldest = ".".join(map(str, MIN_VERSION))
        raise DeviceError(
            f"TensorRT: expected {oldest} or newer, for strongly typed networks, found {backend.version}; upgrade it "
            "(on a Jetson JetPack 6.1 or newer)"
        )
    return backend
