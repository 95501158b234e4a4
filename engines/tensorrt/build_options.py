"""The options of a build, checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.core.contract import PRECISIONS
from engines.core.errors import BuildError, DeviceError
from engines.core.machine import Machine
from engines.core.option_checks import check_choice, check_integer
from engines.tensorrt.backend import BACKENDS, TENSORRT_RTX, Backend
from engines.tensorrt.hardware import AMPERE_SM, RTX_SMS, rtx_runs_on, why_no_dla, why_no_rtx
from engines.tensorrt.plugin_definitions import why_no_plugins

TARGETS = tuple(f"sm{sm}" for sm in RTX_SMS)
PORTABLE, CURRENT = "portable", "current"
PORTABLE_GPUS = "a desktop GPU of compute capability 8.0, 8.6, 8.9 or 12.x (not a Jetson)"
PLUGIN, KERNELS = "plugin", "kernels"
POSTPROCESS = ("auto", PLUGIN, KERNELS)


def runs_on_sm(targets: tuple[str, ...], sm: int) -> bool:
    """True if an engine of TensorRT-RTX for these targets runs on a GPU.

    Args:
        targets: architectures such as ``sm86``, or only ``portable``.
        sm: compute capability of the GPU as one number, such as 86 for 8.6; 0 without a GPU.

    Examples:
        >>> runs_on_sm(("sm86", "sm89"), 86), runs_on_sm(("portable",), 75), runs_on_sm(("portable",), 90)
        (True, False, False)
    """
    if targets == (PORTABLE,):
        return sm >= AMPERE_SM and rtx_runs_on(sm)
    return f"sm{sm}" in targets


@dataclass(frozen=True)
class BuildOptions:
    """The options of a build.

    Attributes:
        precision: precision of the network: fp32, fp16 or int8. The ONNX must have the same precision.
        batch: batch size that the engine is tuned for. Without ``max_batch`` it is the only batch size that the engine
            takes.
        max_batch: largest batch size of an engine that takes any size from 1 up; None for a fixed batch size.
        backend: auto, tensorrt or tensorrt-rtx.
        targets: targets of TensorRT-RTX: GPU architectures such as ``sm86``, or only ``portable``, or only ``current``
            for the GPU of this machine; text stands for one target. An empty tuple means ``current``, or ``portable``
            on a machine without a GPU.
        postprocess: kind of post-processing. With ``plugin``, the engine contains the kernels and returns detections.
            With ``kernels``, the engine ends at the raw heads and the runner launches the kernels, so the thresholds
            can be changed. ``auto`` means ``plugin`` if possible, else ``kernels``.
        workspace: largest scratch memory, MiB; None for TensorRT's own limit.
        timing_cache: path of the file that keeps TensorRT's measurements from one build to the next; None to keep none.
        optimization_level: TensorRT's optimization level from 0 to 5; None for TensorRT's default.
        dla: number of the core of the deep-learning accelerator (DLA) that runs the network; None for the GPU.
        version_compatible: True for an engine that also runs on later versions of TensorRT, and on TensorRT's lean
            runtime. The engine contains the lean runtime of the version that builds it.
        without_runtime: True for a version-compatible engine that does not contain a lean runtime. It needs TensorRT or
            the lean runtime of the very version that builds it.
        hardware_compatible: True for an engine that also runs on other GPUs, Ampere and later.

    Raises:
        BuildError: if a value is out of range, or options contradict each other.

    Examples:
        >>> BuildOptions(precision="fp16", batch=2, max_batch=8).precision
        'fp16'
        >>> BuildOptions(batch=0)
        Traceback (most recent call last):
        engines.core.errors.BuildError: batch: expected at least 1, got 0
    """

    precision: str = "fp32"
    batch: int = 1
    max_batch: int | None = None
    backend: str = "auto"
    targets: Sequence[str] = ()
    postprocess: str = "auto"
    workspace: int | None = None
    timing_cache: Path | str | None = None
    optimization_level: int | None = None
    dla: int | None = None
    version_compatible: bool = False
    without_runtime: bool = False
    hardware_compatible: bool = False

    def __post_init__(self) -> None:
        # Stored in one form, because targets are compared with tuples, and a passport stores the options as JSON.
        targets = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        object.__setattr__(self, "targets", targets)
        if self.timing_cache is not None:
            object.__setattr__(self, "timing_cache", str(self.timing_cache))
        for name, value, allowed in (
            ("precision", self.precision, PRECISIONS),
            ("backend", self.backend, ("auto", *BACKENDS)),
            ("postprocess", self.postprocess, POSTPROCESS),
            *(("targets", target, (*TARGETS, PORTABLE, CURRENT)) for target in targets),
        ):
            check_choice(name, value, allowed, error=BuildError)
        check_integer("batch", self.batch, 1, error=BuildError)
        for name, number, least, most, unit in (
            ("max_batch", self.max_batch, self.batch, None, "(the batch)"),
            ("workspace", self.workspace, 1, None, "MiB"),
            ("optimization_level", self.optimization_level, 0, 5, ""),
            ("dla", self.dla, 0, None, ""),
        ):
            if number is not None:
                check_integer(name, number, least, most, unit=unit, error=BuildError)
        alone = len(self.targets) == 1 or not {PORTABLE, CURRENT} & set(self.targets)
        _require(
            alone and len(set(self.targets)) == len(self.targets),
            "targets",
            f"each architecture at most once, and {PORTABLE} or {CURRENT} alone",
            ",".join(self.targets),
        )
        _require(
            self.version_compatible or not self.without_runtime,
            "without_runtime",
            "version_compatible, because only such an engine contains a runtime",
            "an engine for one version",
        )
        if self.dla is not None:
            _require(self.precision != "fp32", "dla", "precision fp16 or int8, which the core supports", self.precision)
            _require(self.max_batch is None, "dla", "a fixed batch size without max_batch", self.max_batch)

    def for_backend(self, backend: Backend, machine: Machine) -> BuildOptions:
        """Return a copy of the options in which every open choice is made for a backend.

        Args:
            backend: backend that builds the engine.
            machine: machine that builds the engine.

        Raises:
            BuildError: if the backend does not support an option; no option is ignored silently.
            DeviceError: if TensorRT-RTX is to build for the GPU of the machine, but does not support it.
        """
        if not backend.is_rtx:
            _require(
                not self.targets,
                "targets",
                "none with TensorRT, which builds for the GPU of this machine",
                ",".join(self.targets),
            )
            if self.dla is not None and (without := why_no_dla(backend.version, machine)):
                raise BuildError(f"dla: {without}")
            reason = self._why_no_plugins(backend)
            if self.postprocess == PLUGIN and reason is not None:
                raise BuildError(f"postprocess plugin: {reason}; use postprocess kernels")
            if self.postprocess != "auto":
                return self
            return dataclasses.replace(self, postprocess=PLUGIN if reason is None else KERNELS)
        targets = self.targets or ((CURRENT,) if machine.gpu else (PORTABLE,))
        if targets == (CURRENT,) and not machine.gpu:
            raise BuildError(
                f"targets: expected a GPU in this machine for {CURRENT}, found none; name an architecture, such as "
                f"{TARGETS[2]}"
            )
        if targets == (CURRENT,) and (unsupported := why_no_rtx(machine)):
            raise DeviceError(f"backend {TENSORRT_RTX}: {unsupported}, or name the target of another GPU")
        for name, requested in (
            ("postprocess plugin", self.postprocess == PLUGIN),
            ("timing_cache", self.timing_cache is not None),
            ("dla", self.dla is not None),
            ("version_compatible", self.version_compatible),
            ("hardware_compatible", self.hardware_compatible),
        ):
            if requested:
                instead = " (the target portable is the equivalent)" if name == "hardware_compatible" else ""
                raise BuildError(
                    f"{name}: {TENSORRT_RTX} does not support this option{instead}; leave it out or use the backend "
                    "tensorrt"
                )
        return dataclasses.replace(self, postprocess=KERNELS, targets=targets)

    def _why_no_plugins(self, backend: Backend) -> str | None:
        """Return the reason why this engine cannot contain the kernels as plugins; None if it can."""
        if self.max_batch is not None:
            return (
                "max_batch: expected a fixed batch size, because the CUDA modules of plugins leak when the batch size "
                f"changes (NVIDIA/TensorRT#4849), got 1 to {self.max_batch}"
            )
        for name, requested in (
            ("version_compatible", self.version_compatible),
            ("hardware_compatible", self.hardware_compatible),
        ):
            if requested:
                return f"{name}: TensorRT's documentation does not say that such engines can contain these plugins"
        return why_no_plugins(backend)


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise BuildError(f"{name}: expected {expected}, got {got}")
