"""A deployable FP32 ONNX in another precision: taken apart, converted, compared, put together again. Without torch."""

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
from engines.core.tensor_names import ACCURACY_KEY, QUANTIZATION_KEY, head_names
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
from export.precision.half_precision import to_half
from export.precision.quantization import (
    Quantization,
    int8_share,
    multiply_adds,
    quantize,
    sensitive_convolutions,
    weight_groups,
)
from export.precision.ranges import Progress, check_half, collect_ranges, ranges_on
from export.precision.sensitivity import sensitivities
from export.verify import batches_of, compare_with_specification, onnx_heads, postprocessed, timed_heads

# Signal to noise of the worst head, decibels. Rounding to float16 leaves 38 to 73 in R18 and R50. INT8 leaves 6.5 to 24
# in the sample model, by images and layout, and with one range cut to a hundredth -1.6 to 7.5: only what is broken
# altogether is caught here, and how much accuracy is lost evaluate says.
MIN_SIGNAL_TO_NOISE = {"fp16": 25.0, "int8": 6.0}
# Of each network, in turn, for its speed.
ROUNDS = 5


@dataclass(frozen=True)
class Calibration:
    """How to make it INT8.

    Attributes:
        images: the calibration set.
        layout: ``tensorrt`` or ``cpu``.
        calibrator: minmax, entropy, percentile or mse; None for the layout's default.
        cache: folder for ranges, None to keep none.
        progress: called with the images done and their number.
    """

    images: CalibrationSet
    layout: str
    calibrator: str | None = None
    cache: Path | None = None
    progress: Progress | None = None

    @property
    def chosen(self) -> str:
        """The calibrator."""
        return self.calibrator or DEFAULT_CALIBRATORS[self.layout]


@dataclass(frozen=True)
class Drift:
    """How far the raw heads are from FP32.

    Attributes:
        decibels: signal to noise of each head by name: 20 dB is an error of a tenth of the spread.
        images: how many they were compared on.
        detections: found by the converted model in them.
        accuracy: what it costs, where a budget was given.
    """

    decibels: Mapping[str, float]
    images: int
    detections: int
    accuracy: Accuracy | None = None

    @property
    def worst(self) -> tuple[str, float]:
        """Name and decibels of the head that is furthest off."""
        return _worst(self.decibels)


def convert(
    deployable: onnx.ModelProto,
    precision: str,
    *,
    images: Sequence[npt.NDArray[Any]],
    calibration: Calibration | None = None,
    budget: AccuracyBudget | None = None,
) -> tuple[onnx.ModelProto, Drift]:
    """A deployable ONNX of another precision, compared with the one it was made of.

    Args:
        deployable: FP32, of any batch size.
        precision: ``fp16`` or ``int8``.
        images: frames of any size, BGR uint8 [h, w, 3], to compare on.
        calibration: for INT8.
        budget: accuracy that it may cost; None measures none.

    Returns:
        The deployable, and how far its heads are from FP32's.

    Raises:
        ExportError: not FP32, cannot be converted, outside its budget, or too far off; its Decode and NMS are not the
            specification's.
        ModelFileError: not a deployable of ours.
        ValueError: INT8 without calibration, or another precision with it.
    """
    if (precision == "int8") != (calibration is not None):
        raise ValueError(f"calibration: expected one for int8 and none otherwise, got precision {precision}")
    contract = contract_of(deployable)
    if contract.precision != "fp32":
        raise ExportError(
            f"expected an ONNX in fp32 to make {precision} of, got one in {contract.precision}; export the checkpoint "
            "again in fp32"
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
    return model, _compare(source, network, model, converted, batches, len(images), accuracy)


def convert_file(
    source: Path | str,
    target: Path | str,
    precision: str,
    *,
    images: Sequence[npt.NDArray[Any]],
    calibration: Calibration | None = None,
    budget: AccuracyBudget | None = None,
) -> tuple[int, Drift]:
    """``convert`` from file to file; ``target`` is replaced at the very end, or not at all.

    Returns:
        The size of the file written, bytes, and how far its heads are from FP32's.
    """
    model, drift = convert(
        read_deployable(Path(source).read_bytes()), precision, images=images, calibration=calibration, budget=budget
    )
    content = model.SerializeToString()
    with atomic_file(target) as file:
        file.write(content)
    return len(content), drift


def _reference(deployable: onnx.ModelProto, budget: AccuracyBudget) -> float:
    """AP of FP32, which is more than nothing."""
    budget.tell("measuring fp32")
    fp32 = budget.measure(deployable)
    check_fp32_ap(fp32)
    return fp32


def _check(deployable: onnx.ModelProto, converted: onnx.ModelProto, budget: AccuracyBudget, precision: str) -> Accuracy:
    fp32 = _reference(deployable, budget)
    budget.tell(f"measuring {precision}")
    here = budget.measure(converted)
    check_budget(fp32, here, budget, precision)
    return Accuracy(fp32, here, budget.points, budget.data)


def _quantized(
    deployable: onnx.ModelProto,
    source: onnx.ModelProto,
    contract: DetectorContract,
    calibration: Calibration,
    batches: Sequence[npt.NDArray[np.uint8]],
    budget: AccuracyBudget | None,
) -> tuple[onnx.ModelProto, Quantization, Accuracy | None]:
    # First, because what is wrong with the labeled images is said before minutes of calibration.
    fp32 = None if budget is None else _reference(deployable, budget)
    ranges = collect_ranges(
        source,
        contract,
        calibration.images,
        calibrator=calibration.chosen,
        cache=calibration.cache,
        progress=calibration.progress,
    )
    if calibration.layout == TENSORRT:
        # What is not INT8 there; by all that occurs, because ranges leave out the largest.
        check_half(ranges_on(source, batches))
    always = sensitive_convolutions(source, calibration.layout)
    work = multiply_adds(source)

    def quantized(put_back: Names) -> onnx.ModelProto:
        return quantize(source, ranges, calibration.layout, always, put_back)

    accuracy: Accuracy | None = None
    put_back: Names = ()
    if budget is not None and fp32 is not None:
        accuracy = _within_budget(fp32, source, contract, calibration.layout, always, work, quantized, budget)
        put_back = accuracy.trials[-1].kept
    network, kept = quantized(put_back), (*always, *put_back)
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
    """INT8 measured, and layers put back where that is needed."""
    groups = weight_groups(source, always)

    def attempt(put_back: Names) -> Trial:
        budget.tell("measuring int8" + (f" with {len(put_back)} convolutions put back" if put_back else ""))
        # With the layout, by which a runtime knows how to run it.
        ap = budget.measure(attach(quantized(put_back), contract, {QUANTIZATION_KEY: json.dumps({"layout": layout})}))
        return Trial(put_back, ap, round(int8_share(work, (*always, *put_back)), 4))

    def worst_first() -> list[Names]:
        letterboxed, _ = letterbox_batch(budget.images, contract.input_size)
        batches = list(batches_of(letterboxed, batch_of(source)))
        found = sensitivities(source, groups, quantized, batches, contract, budget.tell)
        return [item.names for item in found]

    trials = find_fallback(fp32, budget, attempt, worst_first)
    return Accuracy(fp32, trials[-1].ap, budget.points, budget.data, trials)


def _speed(
    source: onnx.ModelProto, network: onnx.ModelProto, layout: str, share: float, contract: DetectorContract
) -> tuple[float, str]:
    """Of the network alone: measured where it runs on a CPU, else the most that its arithmetic allows."""
    if layout != CPU:
        # INT8 has twice the rate of FP16 on every GPU since Turing (NVIDIA, "Turing architecture" whitepaper, 2018).
        return round(1 / (1 - share / 2), 2), "FP16; estimated: the most that the share of multiply-adds allows"
    images = np.zeros((batch_of(source) or 1, *contract.input_size, 3), np.uint8)
    runs = [timed_heads(model, images) for model in (source, network)]
    fp32, int8 = (min(times) for times in zip(*((run() for run in runs) for _ in range(ROUNDS)), strict=True))
    return round(fp32 / int8, 2), f"FP32; measured on {cpu_model()}, best of {ROUNDS}"


def _compare(
    source: onnx.ModelProto,
    network: onnx.ModelProto,
    deployable: onnx.ModelProto,
    contract: DetectorContract,
    batches: Sequence[npt.NDArray[np.uint8]],
    count: int,
    accuracy: Accuracy | None,
) -> Drift:
    heads = onnx_heads(network, batches)
    for name, *arrays in zip(head_names(len(contract.levels)), *heads, strict=True):
        if not all(np.isfinite(array).all() for array in arrays):
            raise ExportError(
                f"raw head {name} in {contract.precision}: expected finite numbers, found others; stay with fp32"
            )
    decibels = _decibels(onnx_heads(source, batches), heads, contract)
    name, worst = _worst(decibels)
    least = MIN_SIGNAL_TO_NOISE[contract.precision]
    if accuracy is None and not worst >= least:  # with a budget AP has decided
        raise ExportError(
            f"raw head {name} in {contract.precision}: expected at least {least:.0f} dB of signal to noise against "
            f"fp32, found {worst:.1f}; calibrate with images as the camera sees them, or another --calibrator"
            + ("" if contract.precision == "int8" else ", or stay with fp32")
        )
    found = postprocessed(deployable, heads)
    _, _, detections = compare_with_specification(heads, found, contract, count)
    return Drift(decibels, count, detections, accuracy)


def _worst(decibels: Mapping[str, float]) -> tuple[str, float]:
    return min(decibels.items(), key=lambda item: item[1])


def _decibels(
    expected: Sequence[Sequence[npt.NDArray[np.float32]]],
    found: Sequence[Sequence[npt.NDArray[np.float32]]],
    contract: DetectorContract,
) -> dict[str, float]:
    """10 log10 of the variance of each head over its mean squared error."""
    decibels = {}
    for index, name in enumerate(head_names(len(contract.levels))):
        ours = np.concatenate([heads[index].reshape(-1) for heads in expected]).astype(np.float64)
        theirs = np.concatenate([heads[index].reshape(-1) for heads in found]).astype(np.float64)
        noise = float(np.mean((ours - theirs) ** 2))
        # A head that says the same everywhere carries no signal; then only the exact same is right.
        signal = float(np.var(ours))
        decibels[name] = (
            round(float(10 * np.log10(signal / noise)), 2) if noise and signal else (0.0 if noise else np.inf)
        )
    return decibels
