"""Convert a deployable FP32 ONNX to FP16 or INT8, and compare the two. This module needs no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker

from engines.core.atomic_file import atomic_file
from engines.core.contract import CPU, TENSORRT, DetectorContract
from engines.core.letterbox import letterbox_batch
from engines.core.processor import cpu_model
from engines.core.tensor_names import ACCURACY_KEY, QUANTIZATION_KEY
from engines.onnx.deployable import (
    batch_of,
    contract_of,
    convolution_precisions,
    heads_only,
    read_deployable,
)
from export.attach import attach
from export.errors import ExportError
from export.half_weights import restore_weights
from export.precision.accuracy_budget import (
    Accuracy,
    AccuracyBudget,
    Names,
    Trial,
    check_budget,
    check_fp32_ap,
    find_fallback,
)
from export.precision.calibration import DEFAULT_CALIBRATORS, CalibrationSet
from export.precision.convolutions import int8_share, multiply_adds, sensitive_convolutions, weight_groups
from export.precision.drift import Drift, compare_heads
from export.precision.half_precision import to_half
from export.precision.quantization import Quantization, quantize
from export.precision.ranges import Progress, check_half, collect_ranges, ranges_on
from export.precision.sensitivity import sensitivities
from export.verify import batches_of, timed_heads

# Number of timed runs of each network. The networks run alternately.
TIMED_RUNS = 5


@dataclass(frozen=True)
class Calibration:
    """The images and the calibrator of an INT8 model.

    Attributes:
        images: calibration set.
        layout: layout of the INT8 operators, ``tensorrt`` or ``cpu``.
        calibrator: name of the calibrator: minmax, entropy, percentile or mse; None for the layout's default.
        cache: folder in which ranges are cached; None disables the cache.
        progress: callback, called with the number of images done and the number of all images.
    """

    images: CalibrationSet
    layout: str
    calibrator: str | None = None
    cache: Path | None = None
    progress: Progress | None = None

    @property
    def chosen(self) -> str:
        """The calibrator, or the layout's default."""
        return self.calibrator or DEFAULT_CALIBRATORS[self.layout]


def convert(
    deployable: onnx.ModelProto,
    precision: str,
    *,
    images: Sequence[npt.NDArray[Any]],
    calibration: Calibration | None = None,
    budget: AccuracyBudget | None = None,
) -> tuple[onnx.ModelProto, Drift]:
    """Convert a deployable ONNX to a lower precision, and compare the result with FP32.

    Args:
        deployable: deployable FP32 ONNX of any batch size.
        precision: target precision, ``fp16`` or ``int8``.
        images: frames of any size to compare on, uint8 [h, w, 3], BGR.
        calibration: images and calibrator for INT8; None for FP16.
        budget: accuracy budget; None to measure no accuracy.

    Returns:
        The converted ONNX, and its drift from FP32.

    Raises:
        ExportError: if the model is not FP32 or cannot be converted, or if the result loses more accuracy than the
            budget allows, drifts too far, or gives other detections than the specification.
        ModelFileError: if the model is not a deployable ONNX of retina_edge.
        ValueError: if INT8 has no calibration, or another precision has one.
    """
    if (precision == "int8") != (calibration is not None):
        raise ValueError(
            "calibration: expected a calibration for int8 and none for other precisions, got precision "
            f"{precision} {'with' if calibration else 'without'} a calibration"
        )
    contract = contract_of(deployable)
    if contract.precision != "fp32":
        raise ExportError(
            f"expected an ONNX in fp32 to convert to {precision}, got one in {contract.precision}; build from it as it "
            f"is, with --precision {contract.precision}, or export the checkpoint again in fp32"
        )
    source = restore_weights(heads_only(deployable))
    letterboxed, _ = letterbox_batch(images, contract.input_size)
    batches = list(batches_of(letterboxed, batch_of(source)))
    converted = dataclasses.replace(contract, precision=precision)
    metadata = {}
    if calibration is None:
        check_half(ranges_on(source, batches))
        network = to_half(source)
        accuracy = None if budget is None else _check(deployable, attach(network, converted), budget, precision)
    else:
        network, record, accuracy = _quantized(deployable, source, converted, calibration, batches, budget)
        metadata[QUANTIZATION_KEY] = record.to_json()
    if accuracy is not None:
        metadata[ACCURACY_KEY] = accuracy.to_json()
    model = attach(network, converted, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model, compare_heads(source, network, model, converted, batches, len(images), accuracy)


def convert_file(
    source: Path | str,
    target: Path | str,
    precision: str,
    *,
    images: Sequence[npt.NDArray[Any]],
    calibration: Calibration | None = None,
    budget: AccuracyBudget | None = None,
) -> tuple[int, Drift]:
    """Convert a file with ``convert`` and write the result.

    Args:
        source: path of the deployable FP32 ONNX.
        target: path of the converted ONNX. An existing file is overwritten at the very end, or not at all.
        precision, images, calibration, budget: arguments of ``convert``.

    Returns:
        The size of the new file in bytes, and its drift from FP32.

    Raises:
        ExportError, ModelFileError, ValueError: for the same reasons as ``convert``.
        OSError: if a file cannot be read or written.
    """
    model, drift = convert(
        read_deployable(Path(source).read_bytes()), precision, images=images, calibration=calibration, budget=budget
    )
    content = model.SerializeToString()
    with atomic_file(target) as file:
        file.write(content)
    return len(content), drift


def _fp32_ap(deployable: onnx.ModelProto, budget: AccuracyBudget) -> float:
    """Measure the AP of FP32 and check that it is above 0."""
    budget.tell("measuring fp32")
    fp32 = budget.measure(deployable)
    check_fp32_ap(fp32)
    return fp32


def _check(deployable: onnx.ModelProto, converted: onnx.ModelProto, budget: AccuracyBudget, precision: str) -> Accuracy:
    """Measure the AP of FP32 and of a converted model, and check the budget."""
    fp32 = _fp32_ap(deployable, budget)
    budget.tell(f"measuring {precision}")
    ap = budget.measure(converted)
    check_budget(fp32, ap, budget, precision)
    return Accuracy(fp32, ap, budget.points, budget.data)


def _quantized(
    deployable: onnx.ModelProto,
    source: onnx.ModelProto,
    contract: DetectorContract,
    calibration: Calibration,
    batches: Sequence[npt.NDArray[np.uint8]],
    budget: AccuracyBudget | None,
) -> tuple[onnx.ModelProto, Quantization, Accuracy | None]:
    """Calibrate and quantize a network. Return it with its records; the record of accuracy is None without a budget."""
    # Measured first, so that unsuitable labeled images are reported before minutes of calibration.
    fp32 = None if budget is None else _fp32_ap(deployable, budget)
    ranges = collect_ranges(
        source,
        contract,
        calibration.images,
        calibrator=calibration.chosen,
        cache=calibration.cache,
        progress=calibration.progress,
    )
    if calibration.layout == TENSORRT:
        # Check the layers that become FP16. The check needs ranges of its own, because a calibrator may omit the
        # largest values.
        check_half(ranges_on(source, batches))
    always = sensitive_convolutions(source, calibration.layout)
    work = multiply_adds(source)

    def quantized(fallback: Names) -> onnx.ModelProto:
        return quantize(source, ranges, calibration.layout, always, fallback)

    accuracy: Accuracy | None = None
    fallback: Names = ()
    if budget is not None and fp32 is not None:
        accuracy = _within_budget(fp32, source, contract, calibration.layout, always, work, quantized, budget)
        fallback = accuracy.trials[-1].kept
    network, kept = quantized(fallback), (*always, *fallback)
    precisions = convolution_precisions(network)
    record = Quantization(
        layout=calibration.layout,
        calibrator=calibration.chosen,
        images=len(calibration.images),
        digest=calibration.images.digest,
        findings=calibration.images.findings,
        convolutions=len(precisions),
        quantized=sum(precision == "int8" for precision in precisions.values()),
        share=round(int8_share(work, kept), 4),
        kept=kept,
    )
    if accuracy is not None:
        speed, against = _speed(source, network, calibration.layout, record.share, contract)
        accuracy = dataclasses.replace(accuracy, speed=speed, speed_against=against)
    return network, record, accuracy


def _within_budget(
    fp32: float,
    source: onnx.ModelProto,
    contract: DetectorContract,
    layout: str,
    always: Names,
    work: Mapping[str, int],
    quantized: Callable[[Names], onnx.ModelProto],
    budget: AccuracyBudget,
) -> Accuracy:
    """Measure INT8, and let layers fall back if the budget requires it."""
    groups = weight_groups(source, always)

    def attempt(fallback: Names) -> Trial:
        budget.tell("measuring int8" + (f" after the fallback of {len(fallback)} convolutions" if fallback else ""))
        # The layout in the metadata tells the executor how to run the model.
        ap = budget.measure(attach(quantized(fallback), contract, {QUANTIZATION_KEY: json.dumps({"layout": layout})}))
        return Trial(fallback, ap, round(int8_share(work, (*always, *fallback)), 4))

    def worst_first() -> list[Names]:
        letterboxed, _ = letterbox_batch(budget.images, contract.input_size)
        batches = list(batches_of(letterboxed, batch_of(source)))
        return [item.names for item in sensitivities(source, groups, quantized, batches, contract, budget.tell)]

    trials = find_fallback(fp32, budget, attempt, worst_first)
    return Accuracy(fp32, trials[-1].ap, budget.points, budget.data, trials)


def _speed(
    source: onnx.ModelProto, network: onnx.ModelProto, layout: str, share: float, contract: DetectorContract
) -> tuple[float, str]:
    """Return ``Accuracy.speed`` and ``Accuracy.speed_against`` for the network alone.

    In the layout ``cpu``, the speed is measured. In the layout ``tensorrt``, it is the highest speed that the
    arithmetic allows.
    """
    if layout != CPU:
        # INT8 has twice the rate of FP16 on every GPU since Turing (NVIDIA, "Turing architecture" whitepaper, 2018).
        return round(1 / (1 - share / 2), 2), "FP16; estimated: the maximum for this share of multiply-adds"
    images = np.zeros((batch_of(source) or 1, *contract.input_size, 3), np.uint8)
    runs = [timed_heads(model, images) for model in (source, network)]
    fp32, int8 = (min(times) for times in zip(*((run() for run in runs) for _ in range(TIMED_RUNS)), strict=True))
    return round(fp32 / int8, 2), f"FP32; measured on {cpu_model()}, best of {TIMED_RUNS}"
