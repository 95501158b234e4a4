"""What a user may ask of an engine; checked before anything is built."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from engines.core.contract import PRECISIONS
from engines.core.errors import BuildError
from engines.tensorrt.backend import TENSORRT_RTX, Backend
from engines.tensorrt.plugin_definitions import why_no_plugins

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
PORTABLE, CURRENT = "portable", "current"
# TensorRT-RTX's portable engines are for Ampere and later.
PORTABLE_SM = 80
PLUGIN, KERNELS = "plugin", "kernels"
POSTPROCESS = ("auto", PLUGIN, KERNELS)


def runs_on_sm(targets: tuple[str, ...], sm: int) -> bool:
    """Whether an engine of TensorRT-RTX for these targets runs on a GPU, given as 86 for compute capability 8.6."""
    return sm >= PORTABLE_SM if targets == (PORTABLE,) else f"sm{sm}" in targets


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        precision: of the network: fp32, fp16 or int8; the ONNX must be of this precision.
        batch: images the engine is tuned for, and with ``max_batch`` None the one batch size it takes.
        max_batch: the engine takes 1 to this many images; None for a fixed batch.
        backend: auto, tensorrt or tensorrt-rtx.
        targets: of TensorRT-RTX: GPU architectures such as ``sm86``, or ``portable``, or ``current`` for the GPU of
            this machine; empty for that, and portable where there is none.
        postprocess: ``plugin`` puts the kernels into the engine, detections out; ``kernels`` ends it at the raw heads,
            which the runner gives to the kernels, with thresholds of the moment; ``auto`` is plugin where that can be.
        workspace: most scratch memory, MiB; None for TensorRT's own limit.
        timing_cache: file that keeps TensorRT's measurements from one build to the next.
        optimization_level: 0 to 5, TensorRT's own default where None.
        dla: core of the deep-learning accelerator; None for the GPU.
        version_compatible: runs on later TensorRT of the same major version too.
        hardware_compatible: runs on other GPUs too, Ampere and later.
    """

    precision: str = "fp32"
    batch: int = 1
    max_batch: int | None = None
    backend: str = "auto"
    targets: tuple[str, ...] = ()
    postprocess: str = "auto"
    workspace: int | None = None
    timing_cache: str | None = None
    optimization_level: int | None = None
    dla: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False

    def __post_init__(self) -> None:
        _require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", self.precision)
        _require(self.batch >= 1, "batch", "at least 1", self.batch)
        if self.max_batch is not None:
            _require(self.max_batch >= self.batch, "max-batch", f"at least the batch of {self.batch}", self.max_batch)
        for target in self.targets:
            known = (*TARGETS, PORTABLE, CURRENT)
            _require(target in known, "target", f"some of {', '.join(known)}", target)
        alone = len(self.targets) == 1 or not {PORTABLE, CURRENT} & set(self.targets)
        _require(
            alone and len(set(self.targets)) == len(self.targets),
            "target",
            f"each architecture once, {PORTABLE} or {CURRENT} alone",
            ",".join(self.targets),
        )
        _require(self.postprocess in POSTPROCESS, "postprocess", f"one of {', '.join(POSTPROCESS)}", self.postprocess)
        if self.workspace is not None:
            _require(self.workspace >= 1, "workspace", "at least 1 MiB", self.workspace)
        if self.optimization_level is not None:
            _require(0 <= self.optimization_level <= 5, "optimization-level", "0 to 5", self.optimization_level)
        if self.dla is not None:
            _require(self.dla >= 0, "dla", "a core from 0", self.dla)
            _require(self.precision != "fp32", "dla", "precision fp16 or int8, which it computes in", self.precision)
            _require(self.max_batch is None, "dla", "a fixed batch, no max-batch", self.max_batch)

    def for_backend(self, backend: Backend, *, has_gpu: bool) -> BuildOptions:
        """These options with what was left open decided for a backend.

        Raises:
            BuildError: the backend cannot do what was asked; nothing is ignored in silence.
        """
        if not backend.is_rtx:
            _require(
                not self.targets, "target", "none with TensorRT, which builds for this GPU", ",".join(self.targets)
            )
            reason = self._why_no_plugins(backend)
            if self.postprocess == PLUGIN and reason is not None:
                raise BuildError(f"postprocess plugin: {reason}; use --postprocess kernels")
            if self.postprocess != "auto":
                return self
            return dataclasses.replace(self, postprocess=PLUGIN if reason is None else KERNELS)
        if CURRENT in self.targets and not has_gpu:
            raise BuildError(f"target: {CURRENT} asked, and this machine has no GPU; name one, such as {TARGETS[2]}")
        for name, asked in (
            ("postprocess plugin", self.postprocess == PLUGIN),
            ("timing-cache", self.timing_cache is not None),
            ("dla", self.dla is not None),
            ("version-compatible", self.version_compatible),
            ("hardware-compatible", self.hardware_compatible),
        ):
            if asked:
                instead = "; --target portable runs on Ampere and later" if name == "hardware-compatible" else ""
                raise BuildError(f"{name}: {TENSORRT_RTX} cannot do this{instead}; leave it out or use tensorrt")
        return dataclasses.replace(
            self,
            postprocess=KERNELS,
            targets=self.targets or ((CURRENT,) if has_gpu else (PORTABLE,)),
        )

    def _why_no_plugins(self, backend: Backend) -> str | None:
        """Why the kernels cannot go into this engine; None where they can."""
        if self.max_batch is not None:
            return (
                f"max-batch: expected a fixed batch, got 1 to {self.max_batch}; the CUDA modules of plugins leak when "
                "the batch changes (NVIDIA/TensorRT#4849)"
            )
        for name, asked in (
            ("version-compatible", self.version_compatible),
            ("hardware-compatible", self.hardware_compatible),
        ):
            if asked:
                return f"{name}: TensorRT does not say that such engines can hold plugins of this kind"
        return why_no_plugins(backend)


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise BuildError(f"{name}: expected {expected}, got {got}")
