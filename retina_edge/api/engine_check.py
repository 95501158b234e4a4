"""The check of a built engine: it runs on real images, and is compared with ONNX Runtime on the same network."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract
from engines.core.errors import BuildError, RetinaEdgeError
from engines.core.executor import NETWORK, RawDetections
from engines.core.letterbox import BgrImage, letterbox_batch
from engines.runner.engine_executor import EngineExecutor
from engines.runner.gpu_executor import GpuExecutor
from engines.runner.tensorrt_network import TensorRTNetwork
from engines.tensorrt.backend import Backend
from engines.tensorrt.build_options import CURRENT, runs_on_sm
from engines.tensorrt.build_request import BuildRequest
from engines.tensorrt.compatibility import check_gpu, check_runs_here
from engines.tensorrt.passport import Passport, read_engine
from retina_edge.evaluation.partners import agreement, sure_partners

# Least signal-to-noise ratio of the worst raw head, decibels. Torch in FP16 and TF32 has 42 dB and more on a GPU. INT8
# rounds some activations to the neighboring step.
MIN_DECIBELS = {"fp32": 35.0, "fp16": 30.0, "int8": 15.0}
# Stands for equal heads, because JSON has no infinity.
MOST_DECIBELS = 999.0
# Boxes of ONNX Runtime that score at least this must have a partner: this share of them.
SURE, MIN_SHARE = 0.5, 0.9
# Seconds of warm-up and of measurement, and the fewest runs of each.
WARM_UP_SECONDS, SECONDS, RUNS = 0.5, 1.5, 5
# INT8 should be at least this many times as fast as FP16, or FP16 is the better choice.
MIN_SPEEDUP = 1.1
# Keys of the record in the passport.
NOT_RUN, DECIBELS, SHARE, MILLISECONDS, SPEEDUP = (
    "not run",
    "signal to noise dB",
    "share of sure boxes with a partner",
    "network ms",
    "times as fast as FP16",
)


def why_not_here(request: BuildRequest) -> str:
    """Return the reason why the engine of a request cannot run on this machine; empty if it can."""
    machine, options = request.machine, request.options
    if not machine.gpu:
        return "this machine has no NVIDIA GPU"
    here = CURRENT in options.targets or runs_on_sm(tuple(options.targets), machine.sm)
    if request.backend.is_rtx and not here:
        return f"the engine is for {', '.join(options.targets)}, and the GPU of this machine is {machine.gpu}"
    if importlib.util.find_spec("pycuda") is None:
        return "pycuda is not installed"
    return ""


def is_checked(passport: Passport, *, compare_fp16: bool) -> bool:
    """True if an engine was run, or is older than the check; with ``compare_fp16`` only if FP16 was measured, too."""
    checked = passport.checked or {}
    return NOT_RUN not in checked and (SPEEDUP in checked or not compare_fp16)


@dataclass(frozen=True)
class EngineCheck:
    """The comparison of an engine with ONNX Runtime, as a callback of ``build_engine``.

    Args:
        onnx: content of the deployable ONNX that the engine is built from.
        images: images to run on, uint8 [height, width, 3], BGR.
        backend: backend that built the engine.
        fp16: path of an FP16 engine of the same model to compare the speed of an INT8 engine with; None for none.
    """

    onnx: bytes
    images: Sequence[BgrImage]
    backend: Backend
    fp16: Path | None = None

    def __call__(self, path: Path, passport: Passport) -> dict[str, Any]:
        """Run an engine and return the record for its passport.

        Args:
            path: path of the plan; its passport is not written yet.
            passport: passport of the engine.

        Raises:
            BuildError: if the engine does not run, or finds other things than ONNX Runtime.
        """
        from engines.onnx.deployable import heads_only, read_deployable  # needs onnx
        from engines.plugins.specification import detections_of
        from export.verify import batches_of, onnx_heads

        contract, size = passport.contract, passport.batch[1]
        # Letterboxed here, so that only the network differs.
        batches = list(batches_of(letterbox_batch(self.images, contract.input_size)[0], size))
        expected_heads = onnx_heads(heads_only(read_deployable(self.onnx)), batches)
        expected = [detections_of(heads, contract) for heads in expected_heads]
        try:
            executor = GpuExecutor(lambda driver: _Plan(driver, path, passport, self.backend, cuda_graph=False))
            try:
                found, heads = zip(*(_run(executor, batch) for batch in batches), strict=True)
                times = self._times(executor, batches[0])
            finally:
                executor.close()
        except RetinaEdgeError as error:
            raise BuildError(
                f"the engine was built, but does not run here, so it was not written: {error}; --no-check writes it "
                "unchecked"
            ) from error
        record: dict[str, Any] = {"compared with": "ONNX Runtime on the CPU", "images": len(self.images)}
        if heads[0]:
            record |= _heads_record(expected_heads, heads, contract)
        record |= _boxes_record(found, expected)
        if not heads[0] and record[SHARE] is None:
            return {NOT_RUN: f"ONNX Runtime finds no box of {SURE} or more on these images; give others to verify with"}
        return _checked(record | times, passport.precision_asked)

    def _times(self, executor: GpuExecutor, batch: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """Measure the engine, in turn with the FP16 engine if there is one."""
        if self.fp16 is None:
            (milliseconds,) = _measure([executor], batch)
            return {"batch": len(batch), MILLISECONDS: round(milliseconds, 4)}
        other = EngineExecutor(self.fp16, cuda_graph=False)
        try:
            milliseconds, fp16 = _measure([executor, other], batch)
        finally:
            other.close()
        times = {"batch": len(batch), MILLISECONDS: round(milliseconds, 4)}
        return {**times, "FP16 network ms": round(fp16, 4), SPEEDUP: round(fp16 / milliseconds, 3)}


def find_fp16(engine: Path, request: BuildRequest) -> Path | None:
    """Return an FP16 engine beside another one, built from the same model for this machine; None without one."""
    for path in sorted(engine.parent.glob("*.engine")):
        try:
            passport, backend, machine = read_engine(path), request.backend, request.machine
            check_gpu(passport, path, machine)
            check_runs_here(passport, path, backend=backend.name, version=backend.version, machine=machine)
        except (RetinaEdgeError, OSError):
            continue
        same_model = passport.request.get("inputs", {}).get("model") == request.inputs.get("model", "")
        if passport.precision_asked == "fp16" and same_model and passport.batch[1] == request.options.batch:
            return path
    return None


def slow_int8(record: Mapping[str, Any] | None) -> str:
    """Return a remark if INT8 is hardly faster than FP16; empty if it is, or was not compared."""
    speedup = (record or {}).get(SPEEDUP)
    if speedup is None or speedup >= MIN_SPEEDUP:
        return ""
    return (
        f"INT8 is only {speedup:.2f} times as fast as FP16 on this GPU, less than {MIN_SPEEDUP:g}: FP16 is the better "
        "choice, because it is more accurate"
    )


class _Plan(TensorRTNetwork):
    """The network of a plan that is not written yet, and so has no cache."""

    def save_cache(self) -> None: ...


def _run(executor: GpuExecutor, batch: npt.NDArray[np.uint8]) -> tuple[RawDetections, list[npt.NDArray[Any]]]:
    return executor.result(executor.submit(list(batch))), executor.raw_heads(len(batch))


def _measure(executors: Sequence[GpuExecutor], batch: npt.NDArray[np.uint8]) -> list[float]:
    """Return the median milliseconds of each network, measured in turn."""
    frames = list(batch)

    def repeat(seconds: float, work: Callable[[], object]) -> None:
        start, runs = time.perf_counter(), 0
        while runs < RUNS or time.perf_counter() - start < seconds:
            work()
            runs += 1

    times: list[list[float]] = [[] for _ in executors]

    def each() -> None:
        for executor, own in zip(executors, times, strict=True):
            own.append(executor.measure(frames)[NETWORK])

    repeat(WARM_UP_SECONDS, each)
    for own in times:
        own.clear()
    repeat(SECONDS, each)
    return [statistics.median(own) for own in times]


def _heads_record(
    expected: Sequence[Sequence[npt.NDArray[np.float32]]],
    found: Sequence[Sequence[npt.NDArray[Any]]],
    contract: DetectorContract,
) -> dict[str, Any]:
    from export.precision.drift import signal_to_noise

    decibels = signal_to_noise(expected, found, contract)
    worst = min(decibels, key=lambda name: decibels[name])
    return {"worst head": worst, DECIBELS: min(decibels[worst], MOST_DECIBELS)}


def _boxes_record(found: Sequence[RawDetections], expected: Sequence[RawDetections]) -> dict[str, Any]:
    pairs = [
        sure_partners(one, other, image, sure=SURE)
        for one, other in zip(found, expected, strict=True)
        for image in range(len(other.num_detections))
    ]
    share, displacement = agreement(pairs)
    return {
        "sure boxes": sum(each.sure for each in pairs),
        SHARE: None if share is None else round(share, 4),
        "mean displacement px": None if displacement is None else round(displacement, 3),
    }


def _checked(record: dict[str, Any], precision: str) -> dict[str, Any]:
    """Return the record, if it is within the limits of the precision."""
    decibels, share = record.get(DECIBELS), record[SHARE]
    problems = []
    if decibels is not None and not decibels >= MIN_DECIBELS[precision]:
        problems.append(
            f"a signal-to-noise ratio of at least {MIN_DECIBELS[precision]:g} dB in {precision}, got {decibels:g} in "
            f"{record['worst head']}"
        )
    if share is not None and share < MIN_SHARE:
        problems.append(f"a partner for {MIN_SHARE:.0%} of {record['sure boxes']} sure boxes, got {share:.0%}")
    if problems:
        raise BuildError(
            f"the engine finds other things than ONNX Runtime on the same network, so it was not written: expected "
            f"{' and '.join(problems)}; try another precision or another version of the backend; --no-check writes it "
            "unchecked"
        )
    return record
