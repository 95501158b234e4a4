"""The conditions that a measurement depends on: processor, GPU, clocks, power mode, temperature, versions."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines import __version__
from engines.core.machine import this_machine
from engines.core.processor import cpu_extensions, cpu_model

# Packages whose versions affect measurements.
PACKAGES = (
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
    "torch",
    "torchvision",
    "triton",
    "pycuda",
    "cuda-bindings",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "mlcommons-loadgen",
    "libreyolo",
)
# Fields to query from nvidia-smi, which are also the names in the report.
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
# Seconds that a tool may take. Without NVIDIA's persistence daemon, nvidia-smi loads the driver first.
TOOL_SECONDS = 20.0


def describe_machine() -> dict[str, Any]:
    """Return the processor with its extensions and cores, the system, the GPU if there is one, and JetPack's version.

    Examples:
        >>> describe_machine()["cores"] == os.cpu_count()
        True
    """
    description: dict[str, Any] = {
        "processor": cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if extensions := cpu_extensions():
        description["extensions"] = extensions
    machine = this_machine()
    if machine.gpu:
        description |= {
            "gpu": machine.gpu,
            "compute capability": machine.compute_capability,
            "driver": machine.driver,
        }
    if machine.jetpack:
        description["jetpack"] = machine.jetpack
    return description


def versions() -> dict[str, str]:
    """Return the versions of retina_edge and of the packages in ``PACKAGES`` that are installed.

    Examples:
        >>> versions()["numpy"] == importlib.metadata.version("numpy")
        True
    """
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**installed, "retina-edge": __version__}  # also in a checkout that is not installed


def conditions(root: Path = Path("/")) -> dict[str, Any]:
    """Return the load, clocks, power, temperatures and memory at this moment, as far as this machine reports them.

    Args:
        root: root of the file system to read from; tests pass another folder.

    Examples:
        >>> "load average" in conditions()
        True
    """
    return {**_processor(root), **_nvidia_smi(), **_jetson(root)}


@contextmanager
def conditions_after(seconds: float) -> Iterator[dict[str, Any]]:
    """Sample ``conditions`` once while the block runs, because clocks and power are meaningful only under load.

    Args:
        seconds: time from the start of the block to the sample.

    Yields:
        A dictionary that receives the conditions after these seconds; it stays empty if the block ends earlier.

    Examples:
        >>> with conditions_after(60) as sample:
        ...     pass  # the work to measure
        >>> sample
        {}
    """
    sample: dict[str, Any] = {}
    timer = threading.Timer(seconds, lambda: sample.update(conditions()))
    timer.start()
    try:
        yield sample
    finally:
        timer.cancel()
        timer.join()


def peak_memory() -> float:
    """Return the peak host memory of this process so far, MB of 10⁶ bytes; NaN on Windows, which has no such figure.

    Examples:
        >>> peak_memory() > 1
        True
    """
    try:
        import resource
    except ImportError:
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (peak if sys.platform == "darwin" else 1024 * peak) / 1e6


def tool_output(*command: str) -> str:
    """Run a command and return its output; an empty string if the command is missing or fails.

    Examples:
        >>> tool_output("echo", "hello")
        'hello\\n'
        >>> tool_output("no-such-command")
        ''
    """
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return run.stdout


def _processor(root: Path) -> dict[str, Any]:
    """Return the load average, which Windows does not report, and the frequency governor."""
    figures: dict[str, Any] = {}
    if hasattr(os, "getloadavg"):
        figures["load average"] = round(os.getloadavg()[0], 2)
    if governor := _read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"):
        figures["governor"] = governor
    return figures


def _nvidia_smi() -> dict[str, Any]:
    """Return figures of nvidia-smi in MHz, W, °C and MiB. Unknown figures (``[N/A]`` and so on) are left out."""
    text = tool_output("nvidia-smi", f"--query-gpu={','.join(GPU_QUERY)}", "--format=csv,noheader,nounits", _gpu())
    values = [value.strip() for value in text.partition("\n")[0].split(",")]
    if len(values) != len(GPU_QUERY):
        return {}
    figures: dict[str, Any] = {}
    for name, value in zip(GPU_QUERY, values, strict=True):
        if (number := _number(value)) is not None:
            figures[name] = number
        elif re.fullmatch(r"P\d+", value):
            figures[name] = value
    return figures


def _gpu() -> str:
    """Return the option of nvidia-smi for the first GPU that CUDA uses, according to ``CUDA_VISIBLE_DEVICES``.

    If the GPUs differ, CUDA numbers them like nvidia-smi only with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    return f"--id={first if re.fullmatch(r'[0-9]+|(GPU|MIG)-[0-9a-f-]+', first) else 0}"


def _jetson(root: Path) -> dict[str, Any]:
    """Return the power mode, the clocks and the GPU temperature of a Jetson, from nvpmodel and from files."""
    figures: dict[str, Any] = {}
    if mode := re.search(r"NV Power Mode:\s*(\S+)", tool_output("nvpmodel", "-q")):
        figures["nvpmodel"] = mode.group(1)
    figures |= _jetson_clocks(root / "sys/class/devfreq")
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        if "gpu" in _read(zone / "type").lower() and (celsius := _read(zone / "temp")).lstrip("-").isdecimal():
            figures["GPU temperature"] = int(celsius) / 1000
    return figures


def _jetson_clocks(devfreq: Path) -> dict[str, Any]:
    """Return the GPU clock in MHz, and ``jetson_clocks``: True if this tool has fixed the clock.

    Thor has several clocks. The clock of the graphics clusters (GPC) is reported as the GPU clock, and each clock under
    its own name, too.
    """
    clocks: dict[str, tuple[float, bool]] = {}
    for folder in sorted(devfreq.glob("*")):
        if re.search(r"gpu|ga10b|gv11b", folder.name):
            lowest, now, highest = (_read(folder / f"{name}_freq") for name in ("min", "cur", "max"))
            if now.isdecimal():
                # The tool jetson_clocks sets the lowest clock to the highest.
                clocks[folder.name] = int(now) / 1e6, lowest == highest
    if not clocks:
        return {}
    graphics = next((name for name in clocks if "gpc" in name), next(iter(clocks)))
    mhz, fixed = clocks[graphics]
    named = {f"clock of {name}": clocks[name][0] for name in clocks} if len(clocks) > 1 else {}
    return {"GPU clock": mhz, "jetson_clocks": fixed, **named}


def _number(text: str) -> float | None:
    """Parse a number; None if the text is not a number."""
    try:
        return float(text)
    except ValueError:
        return None


def _read(path: Path) -> str:
    """Return the text of a file; an empty string if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
