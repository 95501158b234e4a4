"""Which values the activations take on the calibration set; collected once, and kept under what they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from engines.core.atomic_file import atomic_file
from engines.core.contract import DetectorContract
from engines.core.tensor_names import INPUT
from engines.onnx.deployable import batch_of
from export.errors import ExportError
from export.precision.calibration import CALIBRATORS, CalibrationSet

PERCENTILE = 99.999
# Of the greatest value, where mse looks.
RANGE_SHARES = np.linspace(0.02, 1, 99)
HALF_LIMIT = float(np.finfo(np.float16).max)
FORMAT = 1
# What a quantized operator reads or writes.
OPERATORS = ("Conv", "Relu", "Add", "MaxPool", "Resize")

Frames = npt.NDArray[np.uint8]
# Smallest and greatest value of each tensor.
Ranges = dict[str, tuple[float, float]]
# Images done, of how many.
Progress = Callable[[int, int], None]


def collect_ranges(
    network: onnx.ModelProto,
    contract: DetectorContract,
    calibration: CalibrationSet,
    *,
    calibrator: str,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """Ranges of the network's activations on the calibration set, by ONNX Runtime's calibrators.

    Args:
        network: float32, raw heads out.
        contract: how images are letterboxed.
        calibration: the images.
        calibrator: ``minmax``: all that occurs; ``percentile``: 99.999 % of it; ``entropy``: what loses least
            information (Kullback-Leibler), as TensorRT's old calibrator did; ``mse``: where the squared error of
            rounding to symmetric int8, and of cutting off, is least.
        cache: folder that keeps ranges by a digest of weights, images, settings and versions, so that a stale one
            cannot be found; None keeps nothing.
        progress: called with the images done and their number.

    Raises:
        ExportError: an activation is not finite.
        ValueError: no such calibrator.
    """
    if calibrator not in CALIBRATORS:
        raise ValueError(f"calibrator: expected one of {', '.join(CALIBRATORS)}, got {calibrator!r}")
    path = cache / f"{_digest(network, contract, calibration, calibrator)}.json" if cache else None
    if path is not None and (found := _read(path)) is not None:
        return found
    size = batch_of(network) or 1
    tell, count = progress or (lambda _done, _count: None), len(calibration)

    def batches() -> Iterator[Frames]:
        for done, images in enumerate(calibration.batches(contract, size), start=1):
            yield images
            tell(min(done * size, count), count)

    ranges = _collect(network, batches(), calibrator, OPERATORS)
    for name, bounds in ranges.items():
        if not np.isfinite(bounds).all():
            raise ExportError(f"calibration: tensor {name}: expected finite values, found {bounds}; export in fp32")
    if path is not None:
        with atomic_file(path) as file:
            file.write(json.dumps(ranges).encode())
    return ranges


def ranges_on(network: onnx.ModelProto, batches: Iterable[Frames]) -> Ranges:
    """All that occurs in a float32 network on batches of uint8 [n, height, width, 3], BGR, letterboxed."""
    return _collect(network, batches, "minmax", None)


def check_half(ranges: Ranges) -> None:
    """Looks whether float16 can hold what occurs.

    ONNX Runtime cannot tell: on a CPU it computes half precision in float32, and what would be infinite on a GPU
    comes through.

    Raises:
        ExportError: a value is beyond float16.
    """
    for name, bounds in ranges.items():
        greatest = max(map(abs, bounds))
        if not greatest <= HALF_LIMIT:
            raise ExportError(
                f"tensor {name}: expected at most {HALF_LIMIT:.0f} to fit float16, found {greatest:.4g} on the images; "
                "stay with fp32"
            )


def _digest(network: onnx.ModelProto, contract: DetectorContract, calibration: CalibrationSet, calibrator: str) -> str:
    digest = hashlib.sha256(network.SerializeToString(deterministic=True))
    settings = [FORMAT, contract.input_size, contract.letterbox, calibrator, PERCENTILE, calibration.digest]
    digest.update(json.dumps([*settings, onnxruntime.__version__]).encode())
    return digest.hexdigest()


def _read(path: Path) -> Ranges | None:
    """What was kept; None where nothing was, or it is damaged."""
    try:
        return {name: (float(low), float(high)) for name, (low, high) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


class _Reader:
    """One batch, in the form that ONNX Runtime's calibrators ask for."""

    def __init__(self, images: Frames) -> None:
        self._batches = iter([{INPUT: images}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _collect(
    network: onnx.ModelProto, batches: Iterable[Frames], calibrator: str, operators: Sequence[str] | None
) -> Ranges:
    """Ranges of what these operators read and write, None for all there are."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    method = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
        "mse": CalibrationMethod.Percentile,  # for its histograms
    }[calibrator]
    with tempfile.TemporaryDirectory() as folder:
        source, augmented = Path(folder) / "network.onnx", Path(folder) / "augmented.onnx"
        onnx.save(network, source)
        collector = create_calibrator(
            source,
            operators,
            augmented_model_path=str(augmented),
            calibrate_method=method,
            extra_options={"percentile": PERCENTILE} if calibrator == "percentile" else {},
        )
        # One batch at a time: the histograms keep every activation of what they are given, gigabytes for a batch.
        for images in batches:
            try:
                with contextlib.redirect_stdout(None):  # they print
                    collector.collect_data(_Reader(images))
            except ValueError as error:  # of what is not finite no histogram can be made
                raise ExportError(
                    f"calibration: expected finite values, found others ({error}); export in fp32"
                ) from error
        if calibrator == "mse":
            histograms = collector.collector.histogram_dict
            return {name: least_squares(*histograms[name][:4]) for name in sorted(histograms)}
        with contextlib.redirect_stdout(None):
            data = collector.compute_data().data
    return {name: _bounds(data[name]) for name in sorted(data)}


def least_squares(
    counts: npt.NDArray[np.int64], edges: npt.NDArray[np.floating[Any]], low: float, high: float
) -> tuple[float, float]:
    """The range whose symmetric int8 steps have the least mean squared error.

    Args:
        counts: values in each bin of a histogram [n].
        edges: of the bins [n + 1].
        low, high: smallest and greatest value.
    """
    greatest = max(abs(float(low)), abs(float(high)))
    if not 0 < greatest < np.inf:
        return float(low), float(high)
    if edges[1] - edges[0] > greatest / 127:  # too coarse to tell
        return float(low), float(high)
    values = (edges[:-1].astype(np.float64) + edges[1:]) / 2
    # Zeros, the most of what a Relu puts out, cost nothing.
    values[(edges[:-1] <= 0) & (edges[1:] > 0)] = 0
    errors = []
    for share in RANGE_SHARES:
        step = share * greatest / 127
        rounded = step * np.clip(np.round(values / step), -128, 127)
        errors.append(float(np.sum(counts * (values - rounded) ** 2)))
    reach = RANGE_SHARES[int(np.argmin(errors))] * greatest
    return max(float(low), -reach), min(float(high), reach)


def _bounds(values: Any) -> tuple[float, float]:
    low, high = values.range_value
    return float(np.min(low)), float(np.max(high))
