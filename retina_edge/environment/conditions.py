"""What a figure depends on beside the code: processor, GPU, clocks, power mode, temperature, versions."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.core.machine import this_machine
from engines.core.processor import cpu_extensions, cpu_model

PACKAGES = (
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnxruntime",
    "torch",
    "torchvision",
    "triton",
    "pycuda",
    "cuda-bindings",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "mlcommons-loadgen",
    "libreyolo",
    "retina-edge",
)
# Of nvidia-smi; the names in the report are these.
GPU_QUERY = (
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "memory.used",
    "memory.total",
    "pstate",
)
# Without its persistence daemon the driver is loaded first, which takes a while.
TOOL_SECONDS = 20.0


def describe_machine() -> dict[str, Any]:
    """Processor, its extensions, cores and system; the GPU where there is one."""
    found: dict[str, Any] = {
        "processor": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if extensions := cpu_extensions():
        found["extensions"] = extensions
    here = this_machine()
    if here.gpu:
        found |= {"gpu": here.gpu, "compute capability": here.compute_capability, "driver": here.driver}
    if here.jetpack:
        found["jetpack"] = here.jetpack
    return found


def versions() -> dict[str, str]:
    """Of the packages that matter, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """What changes while it runs; only what this machine tells.

    Args:
        root: of the file system; tests have their own.
    """
    return {**_processor(root), **_nvidia_smi(), **_jetson(root)}


@contextmanager
def conditions_after(seconds: float) -> Iterator[dict[str, Any]]:
    """Gives a dictionary that has ``conditions`` once so many seconds are over, if the block lasts that long.

    Clocks and power say something only under load.
    """
    found: dict[str, Any] = {}
    timer = threading.Timer(seconds, lambda: found.update(conditions()))
    timer.start()
    try:
        yield found
    finally:
        timer.cancel()
        timer.join()


def peak_memory() -> float:
    """Of this process in host memory so far, MB of 10⁶ bytes; NaN where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def tool_output(*command: str) -> str:
    """What a tool prints; nothing where it is missing or fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return run.stdout


def _processor(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"load average": round(os.getloadavg()[0], 2)}
    if governor := _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"):
        found["governor"] = governor
    return found


def _nvidia_smi() -> dict[str, Any]:
    """MHz, W, °C and MiB; what nvidia-smi has no figure for (``[N/A]``, ``[Unknown Error]``) is left out."""
    text = tool_output("nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader,nounits", _gpu())
    values = [value.strip() for value in text.partition("\n")[0].split(",")]
    if len(values) != len(GPU_QUERY):
        return {}
    found: dict[str, Any] = {}
    for name, value in zip(GPU_QUERY, values, strict=True):
        if (number := _number(value)) is not None:
            found[name] = number
        elif re.fullmatch(r"P\d+", value):
            found[name] = value
    return found


def _gpu() -> str:
    """The first GPU that CUDA sees, as far as ``CUDA_VISIBLE_DEVICES`` tells.

    CUDA numbers unlike GPUs as nvidia-smi does only with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    return f"--id={first if re.fullmatch(r'[0-9]+|(GPU|MIG)-[0-9a-f-]+', first) else 0}"


def _jetson(root: Path) -> dict[str, Any]:
    """Power mode, clocks and temperature, which a Jetson tells in files of its own."""
    found: dict[str, Any] = {}
    if mode := re.search(r"NV Power Mode:\s*(\S+)", tool_output("nvpmodel", "-q")):
        found["nvpmodel"] = mode.group(1)
    found |= _jetson_clocks(root / "sys/class/devfreq")
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if "gpu" in _read(zone / "type").lower() and (celsius := _read(zone / "temp")).lstrip("-").isdecimal():
            found["GPU temperature"] = int(celsius) / 1000
    return found


def _jetson_clocks(devfreq: Path) -> dict[str, Any]:
    """MHz. Thor has several clocks: that of the graphics clusters (GPC) is the GPU's, and each has its name, too."""
    clocks: dict[str, tuple[float, bool]] = {}
    for folder in sorted(devfreq.glob("*")):
        if re.search(r"gpu|ga10b|gv11b", folder.name):
            lowest, now, highest = (_read(folder / f"{name}_freq") for name in ("min", "cur", "max"))
            if now.isdecimal():
                # What jetson_clocks does: the lowest clock becomes the highest.
                clocks[folder.name] = int(now) / 1e6, lowest == highest
    if not clocks:
        return {}
    graphics = next((name for name in clocks if "gpc" in name), next(iter(clocks)))
    mhz, fixed = clocks[graphics]
    named = {f"clock of {name}": clocks[name][0] for name in clocks} if len(clocks) > 1 else {}
    return {"GPU clock": mhz, "jetson_clocks": fixed, **named}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
