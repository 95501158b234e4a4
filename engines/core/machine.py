"""The GPU that engines are built for and run on, asked of NVIDIA's driver without starting a context on it."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute in cuda.h
_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
_JETPACK_QUERY = ["dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"]
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Machine:
    """What an engine depends on beside TensorRT.

    Attributes:
        gpu: name of the GPU; empty where there is none.
        compute_capability: of that GPU, such as ``8.7``; empty where there is none.
        driver: version of NVIDIA's kernel driver, else the CUDA version the driver speaks; empty where there is none.
        jetpack: version of JetPack, or the L4T release where its package is not installed; empty elsewhere.
    """

    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""
    jetpack: str = ""

    @property
    def sm(self) -> int:
        """Compute capability as one number, 87 for 8.7; 0 without a GPU."""
        return int(self.compute_capability.replace(".", "") or 0)


def this_machine(device: int = 0) -> Machine:
    """One GPU of this machine; empty fields where there is no such GPU or no driver.

    Args:
        device: its number, as the driver counts those that ``CUDA_VISIBLE_DEVICES`` leaves.
    """
    gpu, capability, cuda = _gpu(device)
    return Machine(gpu, capability, (_kernel_driver() or f"CUDA {cuda}") if gpu else "", _jetpack())


def _gpu(number: int) -> tuple[str, str, str]:
    """Name, compute capability and the driver's CUDA version; empty where there is none."""
    nothing = ("", "", "")
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return nothing
    version, device, major, minor = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    # Each returns 0 for success; without a GPU cuInit does not.
    failed = (
        cuda.cuInit(0)
        or cuda.cuDriverGetVersion(ctypes.byref(version))
        or cuda.cuDeviceGet(ctypes.byref(device), number)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
    )
    if failed:
        return nothing
    spoken = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return name.value.decode(), f"{major.value}.{minor.value}", spoken


def _kernel_driver() -> str:
    try:
        match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _KERNEL_DRIVER.read_text())
    except OSError:
        return ""
    return match.group(1) if match else ""


def _jetpack() -> str:
    if not _TEGRA_RELEASE.exists():
        return ""
    try:
        run = subprocess.run(_JETPACK_QUERY, capture_output=True, text=True, check=True)
        return f"JetPack {run.stdout.strip()}"
    except (OSError, subprocess.CalledProcessError):
        pass
    match = re.search(r"R(\d+).*?REVISION: ([\d.]+)", _TEGRA_RELEASE.read_text())
    return f"L4T {match.group(1)}.{match.group(2)}" if match else "L4T"
