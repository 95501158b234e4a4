"""Can this machine run an engine? The passport answers, before any library loads the engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engines.core.errors import DeviceError
from engines.core.machine import Machine
from engines.tensorrt.backend import TENSORRT, TENSORRT_LEAN, TENSORRT_RTX
from engines.tensorrt.build_options import runs_on_sm
from engines.tensorrt.hardware import AMPERE_SM, why_no_rtx
from engines.tensorrt.passport import INSIDE, Passport, numbers, rebuild_command


def check_gpu(passport: Passport, engine: Path | str, machine: Machine) -> None:
    """Check that a machine has a GPU, and that the library that built the engine supports it.

    This comes before the backend is loaded, because installing it or building again with it would not help.

    Raises:
        DeviceError: if there is no such GPU.
    """
    if not machine.gpu:
        raise DeviceError(
            f"{engine}: expected an NVIDIA GPU, which engines run on, found none; on this machine, use the ONNX or the "
            "checkpoint of the model, or install NVIDIA's driver"
        )
    if passport.backend == TENSORRT_RTX and (reason := why_no_rtx(machine)):
        # Without --backend, ``build`` takes TensorRT if it is installed.
        command = rebuild_command(dataclasses.replace(passport, backend=TENSORRT), engine)
        raise DeviceError(f"{engine}: {reason}: {command}")


def check_runs_here(passport: Passport, engine: Path | str, *, backend: str, version: str, machine: Machine) -> None:
    """Check that a machine can run an engine.

    Args:
        passport: passport of the engine, from ``read_engine``.
        engine: path of the engine file.
        backend: backend that will load the engine: ``tensorrt``, ``tensorrt-rtx`` or ``tensorrt-lean``.
        version: version of the backend.
        machine: machine that will run the engine; it has a GPU.

    Raises:
        DeviceError: if the engine was built for another GPU or another TensorRT, or not for the lean runtime.
    """
    fix = advice(passport, engine, backend)
    if mismatch := _library_mismatch(passport, backend, version):
        install = f"install {_what_to_install(passport)}, or " if _is_lean(passport, backend) else ""
        raise DeviceError(f"{engine}: {mismatch}; {install}{fix}")
    if mismatch := _gpu_mismatch(passport, machine):
        raise DeviceError(f"{engine}: {mismatch}; {fix}")


def advice(passport: Passport, engine: Path | str, backend: str) -> str:
    """Return how to get an engine that a backend can run: a clause with the command that builds it again.

    The lean runtime builds nothing, so its command is for another machine and asks for an engine for the lean runtime.
    """
    if not _is_lean(passport, backend):
        return f"fix it with {rebuild_command(passport, engine)}"
    command = rebuild_command(dataclasses.replace(passport, lean_runtime=INSIDE), engine)
    return f"build it again on a machine with TensorRT and a GPU like this one, with {command}"


def _is_lean(passport: Passport, backend: str) -> bool:
    """True if the lean runtime stands in for the TensorRT that built the engine."""
    return (passport.backend, backend) == (TENSORRT, TENSORRT_LEAN)


def _library_mismatch(passport: Passport, backend: str, version: str) -> str:
    """Return the reason why a backend must not load the engine, or an empty string."""
    builder = f"{passport.backend} {passport.backend_version}"
    lean = _is_lean(passport, backend)
    if not lean and backend != passport.backend:
        return f"expected {passport.backend}, which built the engine, got {backend}"
    if passport.lean_runtime is None or passport.backend != TENSORRT:
        if lean:
            return f"expected an engine of build --version-compatible for {backend}, got one that only {builder} runs"
        same = version == passport.backend_version
        return "" if same else f"expected {builder}, which built the engine, got {version}"
    built, installed = numbers(passport.backend_version), numbers(version)
    inside = passport.lean_runtime == INSIDE
    if _same_version(built, installed) or (inside and built <= installed):
        return ""
    wanted = " or later" if inside else ", because the engine does not contain the lean runtime of its builder"
    return f"expected {backend} {passport.backend_version}{wanted}, got {version}"


def _what_to_install(passport: Passport) -> str:
    """Return what a machine with a lean runtime must install to run the engine."""
    version = passport.backend_version
    if passport.lean_runtime is None:
        return f"TensorRT {version}"
    if passport.lean_runtime == INSIDE:
        wanted = f">={version}"
    else:  # the wheels have four numbers, but a TensorRT of apt may report only three
        wanted = f"=={version}" if len(numbers(version)) > 3 else f"=={version}.*"
    return f"it with pip install 'tensorrt-lean-cu13{wanted}' (tensorrt-lean-cu12 for CUDA 12)"


def _same_version(first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """True if the numbers are equal as far as both are known, at least three: 10.3.0 is 10.3.0.30."""
    known = min(len(first), len(second))
    return known >= 3 and first[:known] == second[:known]


def _gpu_mismatch(passport: Passport, machine: Machine) -> str:
    """Return the reason why the engine does not run on a machine, or an empty string."""
    actual = f"{machine.gpu} (compute capability {machine.compute_capability})"
    if passport.backend == TENSORRT_RTX:
        fits = runs_on_sm(passport.targets, machine.sm)
    elif passport.request.get("options", {}).get("hardware_compatible"):
        fits = machine.sm >= AMPERE_SM
    else:
        fits = machine.sm != 0 and machine.sm == passport.machine.sm
    return "" if fits else f"expected {passport.runs_on}, which the engine was built for, found {actual}"
