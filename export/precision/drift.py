"""Compare the raw heads of a network in FP16 or INT8 with those of FP32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from engines.core.contract import DetectorContract
from engines.core.tensor_names import head_names
from export.errors import ExportError
from export.precision.accuracy_budget import Accuracy
from export.verify import compare_with_specification, onnx_heads, postprocessed

# Usual signal-to-noise ratios of the worst raw head, in decibels: R18 and R50 in FP16, and the sample model in INT8
# with each calibrator and layout (``benchmarks.calibrators``).
USUAL_SIGNAL_TO_NOISE = {"fp16": (38.0, 73.0), "int8": (22.0, 38.0)}
# The smallest that is accepted. With one range cut to a hundredth, the sample model has -1.6 to 7.5 in INT8. The limits
# therefore catch only a broken model. ``evaluate`` measures the loss of accuracy.
MIN_SIGNAL_TO_NOISE = {"fp16": 25.0, "int8": 6.0}


@dataclass(frozen=True)
class Drift:
    """The difference between the raw heads of a converted model and those of FP32.

    Attributes:
        decibels: signal-to-noise ratio of each raw head, by name. At 20 dB, the root-mean-square error is a tenth of
            the raw head's standard deviation.
        images: number of images compared.
        detections: number of detections of the converted model in these images.
        accuracy: record of the measured accuracy; None without an accuracy budget.

    Examples:
        >>> Drift({"cls_0": 31.5, "box_0": 28.2}, images=4, detections=90).worst
        ('box_0', 28.2)
    """

    decibels: Mapping[str, float]
    images: int
    detections: int
    accuracy: Accuracy | None = None

    @property
    def worst(self) -> tuple[str, float]:
        """Name and decibels of the raw head with the lowest signal-to-noise ratio."""
        return _worst(self.decibels)


def compare_heads(
    source: onnx.ModelProto,
    network: onnx.ModelProto,
    deployable: onnx.ModelProto,
    contract: DetectorContract,
    batches: Sequence[npt.NDArray[np.uint8]],
    count: int,
    accuracy: Accuracy | None,
) -> Drift:
    """Compare the raw heads of a converted network with those of FP32.

    Args:
        source: FP32 network that returns raw heads.
        network: converted network that returns raw heads.
        deployable: converted model with decode and NMS.
        contract: contract of the converted model.
        batches: letterboxed images, each uint8 [N, height, width, 3], BGR.
        count: number of images in the batches; the rest is padding.
        accuracy: record of the measured accuracy; None without an accuracy budget.

    Raises:
        ExportError: if a raw head is not finite, or, without an accuracy budget, differs too much.
    """
    heads = onnx_heads(network, batches)
    for name, *arrays in zip(head_names(len(contract.levels)), *heads, strict=True):
        if not all(np.isfinite(array).all() for array in arrays):
            raise ExportError(
                f"raw head {name} in {contract.precision}: expected finite numbers, got NaN or inf; stay with fp32"
            )
    decibels = signal_to_noise(onnx_heads(source, batches), heads, contract)
    name, worst = _worst(decibels)
    least = MIN_SIGNAL_TO_NOISE[contract.precision]
    if accuracy is None and not worst >= least:  # with a budget, AP has decided already
        calibrate = "calibrate with images as the camera will see them, or try another calibrator"
        raise ExportError(
            f"raw head {name} in {contract.precision}: expected a signal-to-noise ratio of at least {least:.0f} dB "
            f"against fp32, got {worst:.1f}; {calibrate if contract.precision == 'int8' else 'stay with fp32'}"
        )
    _, _, detections = compare_with_specification(heads, postprocessed(deployable, heads), contract, count)
    return Drift(decibels, count, detections, accuracy)


def _worst(decibels: Mapping[str, float]) -> tuple[str, float]:
    return min(decibels.items(), key=lambda item: item[1])


def signal_to_noise(
    expected: Sequence[Sequence[npt.NDArray[np.float32]]],
    actual: Sequence[Sequence[npt.NDArray[np.float32]]],
    contract: DetectorContract,
) -> dict[str, float]:
    """Return the signal-to-noise ratio of each raw head in decibels: 10 log10(variance / mean squared error)."""
    decibels = {}
    for index, name in enumerate(head_names(len(contract.levels))):
        wanted = np.concatenate([heads[index].reshape(-1) for heads in expected]).astype(np.float64)
        got = np.concatenate([heads[index].reshape(-1) for heads in actual]).astype(np.float64)
        noise = float(np.mean((wanted - got) ** 2))
        # A constant head carries no signal, so any difference counts as 0 dB.
        signal = float(np.var(wanted))
        decibels[name] = (
            round(float(10 * np.log10(signal / noise)), 2) if noise and signal else (0.0 if noise else np.inf)
        )
    return decibels
