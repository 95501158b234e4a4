"""Collect the ranges of activations on a calibration set, and cache them by everything that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
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
from engines.onnx.session import open_session, run_error
from export.errors import ExportError
from export.precision.calibration import CALIBRATORS, CalibrationSet

logger = logging.getLogger(__name__)

# Percentage of the values that the calibrator percentile keeps.
PERCENTILE = 99.999
# Candidate ranges of the calibrator mse, relative to the largest absolute value.
RANGE_SHARES = np.linspace(0.02, 1, 99)
HALF_LIMIT = float(np.finfo(np.float16).max)
# Version of the format of the cache files.
CACHE_FORMAT = 1
# Operators whose inputs and outputs are quantized.
OPERATORS = ("Conv", "Relu", "Add", "MaxPool", "Resize")

Frames = npt.NDArray[np.uint8]
# Smallest and largest value of each tensor.
Ranges = dict[str, tuple[float, float]]
# A callback for the number of images done and the number of all images.
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
    """Return the ranges of a network's activations on a calibration set, measured with ONNX Runtime's calibrators.

    The calibrators choose these ranges:
    - ``minmax``: the range of all values.
    - ``percentile``: the range of 99.999 % of the values.
    - ``entropy``: the range that loses the least information (Kullback-Leibler), like TensorRT's old calibrator.
    - ``mse``: the range with the smallest mean squared error of rounding to symmetric int8 and of clipping.

    Args:
        network: float32 network that returns raw heads.
        contract: contract with the input size and the letterbox.
        calibration: calibration set.
        calibrator: name of the calibrator: minmax, percentile, entropy or mse.
        cache: folder in which ranges are cached; None disables the cache. The keys are digests of weights, images,
            settings and versions, so that outdated ranges are never used.
        progress: callback, called with the number of images done and the number of all images.

    Raises:
        ExportError: if an activation is not finite.
        ValueError: if the calibrator is unknown.
    """
    if calibrator not in CALIBRATORS:
        raise ValueError(f"calibrator: expected one of {', '.join(CALIBRATORS)}, got {calibrator!r}")
    path = cache / f"{_digest(network, contract, calibration, calibrator)}.json" if cache else None
    if path is not None and (cached := _read(path)) is not None:
        return cached
    size = batch_of(network) or 1
    tell, count = progress or (lambda _done, _count: None), len(calibration)

    def batches() -> Iterator[Frames]:
        for done, images in enumerate(calibration.batches(contract, size), start=1):
            yield images
            tell(min(done * size, count), count)

    ranges = _collect(network, batches(), calibrator, OPERATORS)
    for name, bounds in ranges.items():
        if not np.isfinite(bounds).all():
            raise ExportError(f"calibration: tensor {name}: expected finite values, got {bounds}; export in fp32")
    if path is not None:
        try:
            with atomic_file(path) as file:
                file.write(json.dumps(ranges).encode())
        except OSError as error:  # the cache only saves time
            logger.warning("%s: the measured ranges cannot be kept for the next run (%s)", path, error.strerror)
    return ranges


def ranges_on(network: onnx.ModelProto, batches: Iterable[Frames]) -> Ranges:
    """Return the smallest and the largest value of every tensor in a float32 network.

    Args:
        network: float32 network that returns raw heads.
        batches: batches of letterboxed images, uint8 [n, height, width, 3], BGR.

    Examples:
        >>> import onnx.parser
        >>> signature = "(uint8[1, 2, 2, 3] images) => (float[1, 2, 2, 3] y)"
        >>> body = "{ x = Cast<to = 1>(images) y = Neg(x) }"
        >>> network = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 18]> example {signature} {body}')
        >>> ranges_on(network, [np.full((1, 2, 2, 3), 7, np.uint8)])
        {'x': (7.0, 7.0), 'y': (-7.0, -7.0)}
    """
    return _collect(network, batches, "minmax", None)


def check_half(ranges: Ranges) -> None:
    """Check that float16 can hold all values.

    A run of the float16 model in ONNX Runtime would not show an overflow: on a CPU, ONNX Runtime computes half
    precision in float32, so a value that would be infinite on a GPU stays finite.

    Raises:
        ExportError: if a value is NaN or too large for float16.

    Examples:
        >>> check_half({"conv1": (-3.0, 5.0)})
        >>> check_half({"conv1": (-3.0, 1e6)})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        export.errors.ExportError: tensor conv1: expected at most 65504 to fit float16, got 1e+06 on the images; ...
    """
    for name, bounds in ranges.items():
        largest = max(map(abs, bounds))
        if not largest <= HALF_LIMIT:
            raise ExportError(
                f"tensor {name}: expected at most {HALF_LIMIT:.0f} to fit float16, got {largest:.4g} on the images; "
                "stay with fp32"
            )


def _digest(network: onnx.ModelProto, contract: DetectorContract, calibration: CalibrationSet, calibrator: str) -> str:
    digest = hashlib.sha256(network.SerializeToString(deterministic=True))
    settings = [CACHE_FORMAT, contract.input_size, contract.letterbox, calibrator, PERCENTILE, calibration.digest]
    digest.update(json.dumps([*settings, onnxruntime.__version__]).encode())
    return digest.hexdigest()


def _read(path: Path) -> Ranges | None:
    """Return the ranges in a cache file; None if the file is missing or damaged."""
    try:
        return {name: (float(low), float(high)) for name, (low, high) in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return None


class _Reader:
    """A single batch, in the form that ONNX Runtime's calibrators expect."""

    def __init__(self, images: Frames) -> None:
        self._batches = iter([{INPUT: images}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _collect(
    network: onnx.ModelProto, batches: Iterable[Frames], calibrator: str, operators: Sequence[str] | None
) -> Ranges:
    """Return the ranges of the inputs and outputs of these operators; None for all operators."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    method = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
        "mse": CalibrationMethod.Percentile,  # because it collects histograms
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
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        collector.infer_session = open_session(augmented, options)  # with a limit of memory
        # One batch per call, because a histogram collector holds all activations of a call: gigabytes for a batch.
        for images in batches:
            try:
                with contextlib.redirect_stdout(None):  # the calibrators print
                    collector.collect_data(_Reader(images))
            except ValueError as error:  # no histogram can be made of NaN or inf
                raise ExportError(
                    f"calibration: expected finite values, got NaN or inf ({error}); export in fp32"
                ) from error
            except Exception as error:  # ONNX Runtime raises its own exceptions
                raise run_error(error) from error
        if calibrator == "mse":
            histograms = collector.collector.histogram_dict
            return {name: least_squares(*histograms[name][:4]) for name in sorted(histograms)}
        with contextlib.redirect_stdout(None):
            data = collector.compute_data().data
    return {name: _bounds(data[name]) for name in sorted(data)}


def least_squares(
    counts: npt.NDArray[np.int64], edges: npt.NDArray[np.floating[Any]], low: float, high: float
) -> tuple[float, float]:
    """Return the range with the smallest mean squared error of symmetric int8.

    Args:
        counts: number of values in each bin of a histogram, int64 [n].
        edges: edges of the bins, float [n + 1].
        low, high: smallest and largest value.

    Examples:
        >>> values = np.random.default_rng(0).laplace(size=1_000_000).astype(np.float32)
        >>> counts, edges = np.histogram(values, bins=4096)
        >>> low, high = least_squares(counts, edges, values.min(), values.max())
        >>> bool(low > values.min() and high < values.max())  # clipping the few largest values pays off
        True
    """
    largest = max(abs(float(low)), abs(float(high)))
    if not 0 < largest < np.inf:
        return float(low), float(high)
    if edges[1] - edges[0] > largest / 127:  # the bins are wider than an int8 step
        return float(low), float(high)
    values = (edges[:-1].astype(np.float64) + edges[1:]) / 2
    # Zeros, which are most of the outputs of a Relu, have no rounding error.
    values[(edges[:-1] <= 0) & (edges[1:] > 0)] = 0
    errors = []
    for share in RANGE_SHARES:
        step = share * largest / 127
        rounded = step * np.clip(np.round(values / step), -128, 127)
        errors.append(float(np.sum(counts * (values - rounded) ** 2)))
    reach = RANGE_SHARES[int(np.argmin(errors))] * largest
    return max(float(low), -reach), min(float(high), reach)


def _bounds(values: Any) -> tuple[float, float]:
    low, high = values.range_value
    return float(np.min(low)), float(np.max(high))
