"""A deployable FP32 ONNX in another precision: taken apart, converted, compared, put together again. Without torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.checker

from engines.contract import TENSORRT, DetectorContract
from engines.files import atomic_file
from engines.graph import (
    QUANTIZATION_KEY,
    batch_of,
    contract_of,
    convolution_precisions,
    heads_only,
    read_deployable,
)
from engines.letterbox import letterbox_batch
from engines.names import head_names
from export.attach import attach
from export.calibration import CALIBRATORS, CalibrationSet
from export.errors import ExportError
from export.half_precision import to_half
from export.half_weights import restore_weights
from export.quantization import Quantization, int8_share, quantize, sensitive_convolutions
from export.ranges import Progress, check_half, collect_ranges, ranges_on
from export.verify import batches_of, compare_with_specification, onnx_heads, postprocessed

# Signal to noise of the worst head, decibels. Rounding to float16 leaves 38 to 73 in R18 and R50. INT8 leaves 6.5 to 24
# in the sample model, by images and layout, and with one range cut to a hundredth -1.6 to 7.5: only what is broken
# altogether is caught here, and how much accuracy is lost evaluate says.
LEAST_DECIBELS = {"fp16": 25.0, "int8": 6.0}


@dataclass(frozen=True)
class Calibration:
    """How to make it INT8.

    Attributes:
        images: the calibration set.
        layout: ``tensorrt`` or ``cpu``.
        calibrator: minmax, entropy or percentile.
        cache: folder for ranges, None to keep none.
        progress: called with the images done and their number.
    """

    images: CalibrationSet
    layout: str
    calibrator: str = CALIBRATORS[0]
    cache: Path | None = None
    progress: Progress | None = None


@dataclass(frozen=True)
class Drift:
    """How far the raw heads are from FP32.

    Attributes:
        decibels: signal to noise of each head by name: 20 dB is an error of a tenth of the spread.
        images: how many they were compared on.
        detections: found by the converted model in them.
    """

    decibels: Mapping[str, float]
    images: int
    detections: int

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
) -> tuple[onnx.ModelProto, Drift]:
    """A deployable ONNX of another precision, compared with the one it was made of.

    Args:
        deployable: FP32, of any batch size.
        precision: ``fp16`` or ``int8``.
        images: frames of any size, BGR uint8 [h, w, 3], to compare on.
        calibration: for INT8.

    Returns:
        The deployable, and how far its heads are from FP32's.

    Raises:
        ExportError: not FP32, cannot be converted, or too far off; its Decode and NMS are not the specification's.
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
    metadata = {}
    if calibration is None:
        check_half(ranges_on(source, batches))
        network = to_half(source)
    else:
        network, record = _quantized(source, contract, calibration)
        metadata[QUANTIZATION_KEY] = record.to_json()
    converted = dataclasses.replace(contract, precision=precision)
    model = attach(network, converted, metadata)
    onnx.checker.check_model(model, full_check=True)
    return model, _compare(source, network, model, converted, batches, len(images))


def convert_file(
    source: Path | str,
    target: Path | str,
    precision: str,
    *,
    images: Sequence[npt.NDArray[Any]],
    calibration: Calibration | None = None,
) -> tuple[int, Drift]:
    """``convert`` from file to file; ``target`` is replaced at the very end, or not at all.

    Returns:
        The size of the file written, bytes, and how far its heads are from FP32's.
    """
    model, drift = convert(
        read_deployable(Path(source).read_bytes()), precision, images=images, calibration=calibration
    )
    content = model.SerializeToString()
    with atomic_file(target) as file:
        file.write(content)
    return len(content), drift


def _quantized(
    source: onnx.ModelProto, contract: DetectorContract, calibration: Calibration
) -> tuple[onnx.ModelProto, Quantization]:
    ranges = collect_ranges(
        source,
        contract,
        calibration.images,
        calibrator=calibration.calibrator,
        cache=calibration.cache,
        progress=calibration.progress,
    )
    if calibration.layout == TENSORRT:
        check_half(ranges)  # what is not INT8 there
    kept = sensitive_convolutions(source, calibration.layout)
    network = quantize(source, ranges, calibration.layout, kept)
    precisions = convolution_precisions(network)
    return network, Quantization(
        layout=calibration.layout,
        calibrator=calibration.calibrator,
        images=len(calibration.images),
        digest=calibration.images.digest,
        findings=calibration.images.findings,
        convolutions=len(precisions),
        quantized=sum(precision == "int8" for precision in precisions.values()),
        share=round(int8_share(source, kept), 4),
        kept=kept,
    )


def _compare(
    source: onnx.ModelProto,
    network: onnx.ModelProto,
    deployable: onnx.ModelProto,
    contract: DetectorContract,
    batches: Sequence[npt.NDArray[np.uint8]],
    count: int,
) -> Drift:
    heads = onnx_heads(network, batches)
    decibels = _decibels(onnx_heads(source, batches), heads, contract)
    name, worst = _worst(decibels)
    least = LEAST_DECIBELS[contract.precision]
    if not worst >= least:
        raise ExportError(
            f"raw head {name} in {contract.precision}: expected at least {least:.0f} dB of signal to noise against "
            f"fp32, found {worst:.1f}; calibrate with images as the camera sees them, or another --calibrator"
            + ("" if contract.precision == "int8" else ", or stay with fp32")
        )
    found = postprocessed(deployable, heads)
    _, _, detections = compare_with_specification(heads, found, contract, count)
    return Drift(decibels, count, detections)


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
