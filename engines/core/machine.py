"""The GPU that engines are built for and run on. NVIDIA's driver is queried, which creates no CUDA context."""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # CUdevice_attribute in cuda.h
_KERNEL_DRIVER = Path("/proc/driver/nvidia/version")
_JETPACK_QUERY = ["dpkg-query", "--show", "--showformat=${Version}", "nvidia-jetpack"]
_TEGRA_RELEASE = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class Machine:
    """The hardware and drivers that an engine depends on, besides TensorRT.

    Attributes:
        gpu: name of the GPU; empty without a GPU.
        compute_capability: compute capability of the GPU, such as ``8.7``; empty without a GPU.
        driver: version of NVIDIA's kernel driver; if it is unknown, the CUDA version that the driver supports; empty
            without a GPU.
        jetpack: version of JetPack, or the L4T release if the JetPack package is not installed; empty on machines that
            are not a Jetson.

    Examples:
        >>> Machine("Orin", "8.7", "540.4.0", "JetPack 6.2").sm
        87
    """

    gpu: str = ""
    compute_capability: str = ""
    driver: str = ""
    jetpack: str = ""

    @property
    def sm(self) -> int:
        """The compute capability as one number, 87 for 8.7; 0 without a GPU."""
        return int(self.compute_capability.replace(".", "") or 0)


def this_machine(device: int = 0) -> Machine:
    """Describe one GPU of this machine. Without such a GPU or without a driver, the fields are empty.

    Args:
        device: number of the GPU, from 0, among the GPUs that ``CUDA_VISIBLE_DEVICES`` allows.
    """
    gpu, capability, cuda = _gpu(device)
    return Machine(gpu, capability, (_kernel_driver() or f"CUDA {cuda}") if gpu else "", _jetpack())


def _gpu(number: int) -> tuple[str, str, str]:
    """Return the name, the compute capability and the driver's CUDA version; empty strings without a GPU."""
    no_gpu = ("", "", "")
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return no_gpu
    version, device, major, minor = (ctypes.c_int() for _ in range(4))
    name = ctypes.create_string_buffer(256)
    # Each call returns 0 for success. Without a GPU, cuInit fails.
    failed = (
        cuda.cuInit(0)
        or cuda.cuDriverGetVersion(ctypes.byref(version))
        or cuda.cuDeviceGet(ctypes.byref(device), number)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
    )
    if failed:
        return no_gpu
    cuda_version = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return name.value.decode(), f"{major.value}.{minor.value}", cuda_version


def _kernel_driver() -> str:
    """Return the version of NVIDIA's kernel driver, or an empty string if it is unknown."""
    try:
        match = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _KERNEL_DRIVER.read_text())
    except OSError:
        return ""
    return match.group(1) if match else ""


def _jetpack() -> str:
    """Return the version of JetPack or of L4T, or an empty string on machines that are not a Jetson."""
    if not _TEGRA_RELEASE.exists():
        return ""
    try:
        run = subprocess.run(_JETPACK_QUERY, capture_output=True, text=True, check=True)
        if version := run.stdout.strip():  # empty if dpkg knows the package, but it is not installed
            return f"JetPack {version}"
    except (OSError, subprocess.CalledProcessError):
        pass
    match = re.search(r"R(\d+).*?REVISION: ([\d.]+)", _TEGRA_RELEASE.read_text())
    return f"L4T {match.group(1)}.{match.group(2)}" if match else "L4T"
