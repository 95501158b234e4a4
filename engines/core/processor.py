"""The processor, as the system names it."""

from __future__ import annotations

import platform
import re
from pathlib import Path

# As /proc/cpuinfo names them, of x86 and of Arm.
CPU_EXTENSIONS = tuple("avx2 avx512f avx_vnni avx512_vnni avx512_bf16 amx_int8 amx_bf16 asimddp i8mm bf16 sve".split())


def cpu_model() -> str:
    """The processor as the system names it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


def cpu_extensions() -> list[str]:
    """Of its vector arithmetic, those that decide how fast INT8 and BF16 are; processors of one name differ in them."""
    names = _cpu_info("flags|Features").split()
    return [name for name in CPU_EXTENSIONS if name in names]


def _cpu_info(field: str) -> str:
    """What Linux says of the first core under a name, a regular expression; empty where it says nothing."""
    try:
        match = re.search(rf"^(?:{field})\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return ""
    return match.group(1) if match else ""
