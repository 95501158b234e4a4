"""Tables of the GPUs that TensorRT-RTX runs on, and of the versions of TensorRT that have DLA.

Both are asked before a build or a load, which would fail after minutes or with a message that names no way out.
"""

from __future__ import annotations

import re

from engines.core.machine import Machine

# Compute capabilities, such as 86 for 8.6, that TensorRT-RTX can build for. TensorRT-RTX 1.7.1 refuses others: "The
# engine cannot run on this GPU, which has compute capability 9.0. Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1
# >12.0". That is the list for portable engines, which lack 7.5.
RTX_SMS = (75, 80, 86, 89, 120, 121)
RTX_GPUS = "compute capability 7.5, 8.0, 8.6, 8.9 or 12.x"
# Compute capability of Ampere: portable engines of TensorRT-RTX, and hardware-compatible ones of TensorRT, need it.
AMPERE_SM = 80
# TensorRT has DLA up to the first version, and again from the second, which needs this JetPack.
LAST_DLA_10, FIRST_DLA_11, DLA_11_JETPACK = (10, 7), (11, 4, 1), (7, 2, 2)
DLA_SUPPORT = (
    "TensorRT has DLA up to 10.7, and again from 11.4.1 on AGX Orin with JetPack 7.2.2 or newer; Thor has none at all"
)


def rtx_runs_on(sm: int) -> bool:
    """True if TensorRT-RTX runs on GPUs of a compute capability.

    Args:
        sm: compute capability as one number, such as 86 for 8.6; 0 without a GPU.

    Examples:
        >>> rtx_runs_on(89), rtx_runs_on(90)
        (True, False)
    """
    return sm in RTX_SMS or sm > max(RTX_SMS)


def why_no_rtx(machine: Machine) -> str:
    """Return the reason why TensorRT-RTX does not run on a machine, and what does; an empty string if it runs.

    Args:
        machine: machine with a GPU.

    Examples:
        >>> why_no_rtx(Machine("NVIDIA GeForce RTX 4090", "8.9"))
        ''
        >>> print(why_no_rtx(Machine("NVIDIA H200", "9.0")).partition("; ")[2])
        use TensorRT on this GPU
    """
    if rtx_runs_on(machine.sm):
        return ""
    return (
        f"expected a GPU of {RTX_GPUS}, which TensorRT-RTX supports, found {machine.gpu} (compute capability "
        f"{machine.compute_capability}); use TensorRT on this GPU"
    )


def why_no_dla(version: str, machine: Machine) -> str:
    """Return the reason why a version of TensorRT has no DLA on a machine; an empty string if it may have it.

    Whether the module has an accelerator is known only to TensorRT's builder.

    Args:
        version: version of TensorRT, such as ``10.3.0.30``.
        machine: machine that builds and runs the engine.

    Examples:
        >>> why_no_dla("10.3.0.30", Machine("Orin", "8.7", jetpack="JetPack 6.2"))
        ''
        >>> print(why_no_dla("10.13.3", Machine("Orin", "8.7", jetpack="JetPack 7.0")).partition("; ")[0])
        expected a TensorRT with DLA, got TensorRT 10.13.3 on Orin, JetPack 7.0
    """
    numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
    too_old = machine.jetpack.startswith("JetPack") and _jetpack(machine) < DLA_11_JETPACK
    has_dla = numbers[:2] <= LAST_DLA_10 or (numbers >= FIRST_DLA_11 and not too_old)
    if has_dla and "thor" not in machine.gpu.lower():
        return ""
    device = ", ".join(filter(None, (machine.gpu, machine.jetpack)))
    return f"expected a TensorRT with DLA, got TensorRT {version} on {device}; {DLA_SUPPORT}; build without dla"


def _jetpack(machine: Machine) -> tuple[int, ...]:
    """Return the version of JetPack from text like ``JetPack 6.2.1+b38``: major, minor, patch."""
    numbers = re.match(r"JetPack (\d+)(?:\.(\d+))?(?:\.(\d+))?", machine.jetpack)
    return tuple(int(number or 0) for number in numbers.groups()) if numbers else DLA_11_JETPACK
