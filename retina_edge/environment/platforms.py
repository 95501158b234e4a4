"""The platforms a model runs on: commands, post-processing, and what has been run there; for ``doctor`` and README."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engines.core.machine import Machine

PLUGIN = "in the engine; behind it for a dynamic batch"
KERNELS = "behind the engine"


@dataclass(frozen=True)
class Platform:
    """One kind of machine.

    Attributes:
        name: what it is.
        commands: from a checkout with a model to detection; each one line of a shell.
        postprocess: where decode and NMS run.
        proven: what this project has run there, and what not.
    """

    name: str
    commands: tuple[str, ...]
    postprocess: str
    proven: str


# pycuda is compiled where it is installed, and finds CUDA by the folder of nvcc, which JetPack does not put on PATH.
CUDA_PATHS = 'export PATH="/usr/local/cuda/bin:$PATH" CPATH=/usr/local/cuda/include'
_DESKTOP = "# first NVIDIA's CUDA toolkit, a C++ compiler and Python's headers (python3-dev)"
_BUILD = "retina-edge build model.onnx -o model.engine --precision fp16"
_DETECT = "retina-edge detect model.engine video.mp4 --save out.mp4"
_JETSON = (
    "sudo apt-get install nvidia-jetpack python3-venv python3-dev g++",
    "python3 -m venv --system-site-packages .venv && . .venv/bin/activate",
)

JETPACK_6 = Platform(
    "Jetson Orin, JetPack 6.1 and 6.2 (TensorRT 10.3)",
    (*_JETSON, f"{CUDA_PATHS} && pip install 'retina-edge[jetson]' 'cuda-bindings<13'", f"{_BUILD} && {_DETECT}"),
    KERNELS,
    "nothing yet",
)
JETPACK_7 = Platform(
    "Jetson Orin and Thor, JetPack 7 (TensorRT 10.13 and newer)",
    (*_JETSON, f"{CUDA_PATHS} && pip install 'retina-edge[jetson]'", f"{_BUILD} && {_DETECT}"),
    PLUGIN,
    "nothing yet",
)
TENSORRT = Platform(
    "desktop or server GPU, TensorRT 10.3 to 11",
    (_DESKTOP, f"{CUDA_PATHS} && pip install 'retina-edge[tensorrt]'", f"{_BUILD} && {_DETECT}"),
    f"{PLUGIN}; behind it before 10.9 and in 10.14",
    "its plugin layer of 10.9, 10.16 and 11.4; not TensorRT itself",
)
RTX = Platform(
    "desktop GPU, TensorRT-RTX",
    (_DESKTOP, f"{CUDA_PATHS} && pip install 'retina-edge[tensorrt-rtx]' pycuda", f"{_BUILD} && {_DETECT}"),
    KERNELS,
    "building, without a GPU; not running",
)
CPU = Platform(
    "CPU",
    ("pip install retina-edge", "retina-edge detect model.onnx video.mp4 --save out.mp4"),
    "in the ONNX",
    "everything, on Linux x86_64",
)
PLATFORMS = (JETPACK_6, JETPACK_7, TENSORRT, RTX, CPU)
OLD_JETSON = Platform(
    "Jetson with a JetPack before 6.1",
    ("upgrade to JetPack 6.1 or newer: TensorRT before 10.3 cannot be told the precision of a network",),
    "none",
    "nothing",
)


def recognize(machine: Machine, *, tensorrt: bool, tensorrt_rtx: bool) -> Platform:
    """Which of them a machine is.

    Args:
        machine: from ``this_machine``.
        tensorrt: it is installed.
        tensorrt_rtx: it is installed.
    """
    if machine.jetpack:
        return _jetson(machine.jetpack)
    if machine.gpu:
        return RTX if tensorrt_rtx and not tensorrt else TENSORRT
    return CPU


def _jetson(jetpack: str) -> Platform:
    """From ``JetPack 6.2.1+b38``, or from its Linux's release: L4T 36.4 came with JetPack 6.1, 38 with 7."""
    kind, _, version = jetpack.partition(" ")
    major, minor = (*map(int, re.findall(r"\d+", version)[:2]), 0, 0)[:2]
    is_release = kind == "L4T"
    if (major, minor) < ((36, 4) if is_release else (6, 1)):
        # Without a number it is at least a Jetson; what is installed says the rest.
        return OLD_JETSON if major else JETPACK_6
    return JETPACK_7 if major >= (38 if is_release else 7) else JETPACK_6
