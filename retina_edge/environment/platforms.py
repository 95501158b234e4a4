"""The platforms that a model runs on: install commands, and what this project has tested, for ``doctor`` and README."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engines.core.machine import Machine
from engines.tensorrt.backend import JETPACK_COMMAND
from engines.tensorrt.hardware import RTX_GPUS, rtx_runs_on

PLUGIN = "in the engine; after it for a dynamic batch"
KERNELS = "after the engine"


@dataclass(frozen=True)
class Platform:
    """One kind of machine.

    Attributes:
        name: description of the machine.
        commands: shell commands from installation to detection, one line each.
        postprocess: where decode and NMS run.
        proven: what this project has run on the platform, and what it has not.

    Examples:
        >>> CPU.commands
        ('pip install retina-edge', 'retina-edge detect model.onnx video.mp4 --save out.mp4')
    """

    name: str
    commands: tuple[str, ...]
    postprocess: str
    proven: str


# pip compiles pycuda and finds CUDA by the folder of nvcc, which JetPack does not add to PATH.
CUDA_PATHS = 'export PATH="/usr/local/cuda/bin:$PATH" CPATH=/usr/local/cuda/include'
_DESKTOP = (
    "# first install NVIDIA's CUDA toolkit, and: sudo apt-get install python3-venv python3-dev g++ libgl1 libglib2.0-0"
)
_BUILD = "retina-edge build model.onnx -o model.engine --precision fp16"
_DETECT = "retina-edge detect model.engine video.mp4 --save out.mp4"
_JETSON = (
    f"{JETPACK_COMMAND} python3-venv python3-dev g++ libgl1 libglib2.0-0",
    "python3 -m venv --system-site-packages .venv && . .venv/bin/activate",
)

JETPACK_6 = Platform(
    "Jetson Orin, JetPack 6.1 and 6.2 (TensorRT 10.3 or 10.7)",
    (*_JETSON, f"{CUDA_PATHS} && pip install 'retina-edge[jetson]' 'cuda-bindings<13'", f"{_BUILD} && {_DETECT}"),
    KERNELS,
    "nothing yet",
)
JETPACK_7 = Platform(
    "Jetson Orin and Thor, JetPack 7 (TensorRT 10.13 to 10.16, from 7.2.2 on also 11.4.1)",
    (*_JETSON, f"{CUDA_PATHS} && pip install 'retina-edge[jetson]'", f"{_BUILD} && {_DETECT}"),
    f"{PLUGIN}, and with TensorRT 10.14",
    "nothing yet",
)
TENSORRT = Platform(
    "desktop or server GPU, TensorRT 10.3 to 11",
    (_DESKTOP, f"{CUDA_PATHS} && pip install 'retina-edge[tensorrt]'", f"{_BUILD} && {_DETECT}"),
    f"{PLUGIN}, and with TensorRT 10.14 or before 10.9",
    "the plugin layers of 10.9, 10.16 and 11.4, and on an H200 the runner with torch in its place; not TensorRT itself",
)
RTX = Platform(
    f"desktop GPU of {RTX_GPUS}, TensorRT-RTX",
    (
        _DESKTOP,
        f"{CUDA_PATHS} && pip install 'retina-edge[tensorrt-rtx]' pycuda cuda-bindings",
        f"{_BUILD} && {_DETECT}",
    ),
    KERNELS,
    "building engines without a GPU; not running them, and 1.7.1 refuses an H200",
)
LEAN = Platform(
    "desktop or server GPU without TensorRT, its lean runtime 10.15 to 11.4 (runs engines, builds none)",
    (
        _DESKTOP,
        f"{CUDA_PATHS} && pip install 'retina-edge[lean]'",
        f"# on a machine with TensorRT and a GPU of this kind: {_BUILD} --version-compatible",
        _DETECT,
    ),
    KERNELS,
    "the calls of the runner exist in 10.15, 10.16 and 11.4; no engine has been loaded",
)
CPU = Platform(
    "CPU",
    ("pip install retina-edge", "retina-edge detect model.onnx video.mp4 --save out.mp4"),
    "in the ONNX",
    "everything, on Linux x86_64",
)
PLATFORMS = (JETPACK_6, JETPACK_7, TENSORRT, LEAN, RTX, CPU)
OLD_JETSON = Platform(
    "Jetson with a JetPack before 6.1",
    ("upgrade to JetPack 6.1 or newer: TensorRT before 10.3 offers no control over the precision of a network",),
    "none",
    "nothing",
)


def recognize(machine: Machine, *, tensorrt: bool, tensorrt_rtx: bool, tensorrt_lean: bool) -> Platform:
    """Return the platform of a machine.

    Args:
        machine: the machine, from ``this_machine``.
        tensorrt: True if TensorRT is installed.
        tensorrt_rtx: True if TensorRT-RTX is installed, which counts only on a GPU that it supports.
        tensorrt_lean: True if TensorRT's lean runtime is installed.

    Examples:
        >>> jetson = Machine(jetpack="JetPack 6.2.1+b38")
        >>> recognize(jetson, tensorrt=True, tensorrt_rtx=False, tensorrt_lean=False).name
        'Jetson Orin, JetPack 6.1 and 6.2 (TensorRT 10.3 or 10.7)'
    """
    if machine.jetpack:
        return _jetson(machine.jetpack)
    if machine.gpu:
        rtx = tensorrt_rtx and rtx_runs_on(machine.sm)
        # The lean runtime comes last, because it builds no engines.
        return TENSORRT if tensorrt else RTX if rtx else LEAN if tensorrt_lean else TENSORRT
    return CPU


def _jetson(jetpack: str) -> Platform:
    """Return the platform of a Jetson from text like ``JetPack 6.2.1+b38`` or ``L4T 36.4``.

    L4T 36.4 belongs to JetPack 6.1, and L4T 38 to JetPack 7.
    """
    kind, _, version = jetpack.partition(" ")
    major, minor = (*map(int, re.findall(r"\d+", version)[:2]), 0, 0)[:2]
    is_l4t = kind == "L4T"
    if (major, minor) < ((36, 4) if is_l4t else (6, 1)):
        # If the version is unknown, assume a supported JetPack.
        return OLD_JETSON if major else JETPACK_6
    return JETPACK_7 if major >= (38 if is_l4t else 7) else JETPACK_6
