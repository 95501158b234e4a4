"""The processor of this machine, its usable cores, and its memory."""

from __future__ import annotations

import math
import os
import platform
import re
from pathlib import Path

# Vector extensions of x86 and Arm, as /proc/cpuinfo spells them, that decide how fast INT8 and BF16 are.
CPU_EXTENSIONS = tuple("avx2 avx512f avx_vnni avx512_vnni avx512_bf16 amx_int8 amx_bf16 asimddp i8mm bf16 sve".split())

# Quota and period of the container in microseconds, in control groups of version 2.
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def cpu_model() -> str:
    """Return the name of the processor, as the system reports it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_extensions() -> list[str]:
    """Return the members of ``CPU_EXTENSIONS`` that the processor has. Processors of one name may differ in them."""
    names = _cpu_info("flags|Features").split()
    return [name for name in CPU_EXTENSIONS if name in names]


def usable_cores() -> int:
    """Return the number of cores that this process may use: those of its affinity, within its container's quota.

    Examples:
        >>> usable_cores() >= 1
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control groups of version 2, or the quota "max"
        return cores


def machine_memory() -> int:
    """Return the memory of this machine, bytes; 0 if the system does not tell.

    Examples:
        >>> machine_memory() >= 0
        True
    """
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return 0


def _cpu_info(field: str) -> str:
    """Return a field of the first core in /proc/cpuinfo, or an empty string.

    Args:
        field: regular expression for the name of the field.
    """
    try:
        match = re.search(rf"^(?:{field})\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match.group(1) if match else ""
