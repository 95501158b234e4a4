"""Can this machine run an engine? The passport answers, before any library loads the engine."""

from __future__ import annotations

from pathlib import Path

from engines.core.errors import DeviceError
from engines.core.machine import Machine
from engines.tensorrt.backend import TENSORRT_RTX
from engines.tensorrt.build_options import PORTABLE_SM, runs_on_sm
from engines.tensorrt.passport import INSIDE, Passport, numbers, rebuild_command


def check_has_gpu(engine: Path | str, machine: Machine) -> None:
    """Check that a machine has a GPU at all. Without one, neither another build nor another backend helps.

    Raises:
        DeviceError: if it has none.

    Examples:
        >>> check_has_gpu("model.engine", Machine(gpu="Orin"))
    """
    if not machine.gpu:
        raise DeviceError(
            f"{engine}: expected an NVIDIA GPU, which engines run on, found none; on this machine, use the ONNX or the "
            "checkpoint of the model, or install NVIDIA's driver"
        )


def check_runs_here(passport: Passport, engine: Path | str, *, backend: str, version: str, machine: Machine) -> None:
    """Check that a machine can run an engine.

    Args:
        passport: passport of the engine, from ``read_engine``.
        engine: path of the engine file.
        backend: backend that will load the engine: ``tensorrt`` or ``tensorrt-rtx``.
        version: version of the backend.
        machine: machine that will run the engine; it has a GPU.

    Raises:
        DeviceError: if the engine was built for another GPU or another TensorRT.
    """
    mismatch = _backend_mismatch(passport, backend, version) or _gpu_mismatch(passport, machine)
    if mismatch:
        raise DeviceError(f"{engine}: {mismatch}; fix it with {rebuild_command(passport, engine)}")


def _backend_mismatch(passport: Passport, backend: str, version: str) -> str:
    """Return the reason why a backend must not load the engine, or an empty string."""
    if backend != passport.backend:
        return f"expected {passport.backend}, which built the engine, got {backend}"
    if version == passport.backend_version:
        return ""
    built, installed = numbers(passport.backend_version), numbers(version)
    if passport.lean_runtime == INSIDE and built[0] == installed[0] and built <= installed:
        return ""
    return f"expected {passport.backend} {passport.backend_version}, which built the engine, got {version}"


def _gpu_mismatch(passport: Passport, machine: Machine) -> str:
    """Return the reason why the engine does not run on a machine, or an empty string."""
    actual = f"{machine.gpu} (compute capability {machine.compute_capability})"
    if passport.backend == TENSORRT_RTX:
        fits = runs_on_sm(passport.targets, machine.sm)
    elif passport.request.get("options", {}).get("hardware_compatible"):
        fits = machine.sm >= PORTABLE_SM
    else:
        fits = machine.sm != 0 and machine.sm == passport.machine.sm
    return "" if fits else f"expected {passport.runs_on}, which the engine was built for, found {actual}"
