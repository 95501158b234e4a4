"""Tests of the ranges of activations: the four calibrators, and a cache that never returns ranges of another model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import pytest

import export.precision.ranges
from engines.core.contract import DetectorContract
from engines.core.tensor_names import INPUT
from export.errors import ExportError
from export.precision.calibration import CALIBRATORS, CalibrationSet, audit
from export.precision.ranges import Ranges, collect_ranges, least_squares
from retina_edge.imaging.image_file import read_image


@pytest.fixture(scope="module")
def images(treecrowns: Path) -> CalibrationSet:
    return audit(list((treecrowns / "images").iterdir())[:8], read_image)


def every_activation(model: onnx.ModelProto, images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of all Conv, Relu and Add nodes of a network, by name."""
    model = copy.deepcopy(model)
    names = [name for node in model.graph.node if node.op_type in ("Conv", "Relu", "Add") for name in node.output]
    outputs = {output.name for output in model.graph.output}
    known = {info.name: info for info in model.graph.value_info}
    model.graph.output.extend(known[name] for name in names if name not in outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(names, {INPUT: images})
    return dict(zip(names, results, strict=True))


@pytest.fixture(scope="module")
def activations(
    exported: onnx.ModelProto, contract: DetectorContract, images: CalibrationSet
) -> list[dict[str, npt.NDArray[Any]]]:
    return [every_activation(exported, batch) for batch in images.batches(contract, 1)]


def test_minmax_ranges_are_the_extreme_values(
    exported: onnx.ModelProto,
    contract: DetectorContract,
    images: CalibrationSet,
    activations: list[dict[str, npt.NDArray[Any]]],
) -> None:
    told: list[tuple[int, int]] = []
    ranges = collect_ranges(
        exported, contract, images, calibrator="minmax", progress=lambda done, count: told.append((done, count))
    )
    assert told == [(done, 8) for done in range(1, 9)]
    for name in activations[0]:
        values = [image[name] for image in activations]
        low, high = ranges[name]
        assert high == pytest.approx(max(float(value.max()) for value in values), rel=1e-5), name
        # ONNX Runtime's calibrator includes 0 in every range, because quantization must represent 0.
        assert low == pytest.approx(min(0.0, *(float(value.min()) for value in values)), rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("calibrator", ["entropy", "percentile", "mse"])
def test_ranges_of_the_other_calibrators_are_narrower(
    exported: onnx.ModelProto,
    contract: DetectorContract,
    images: CalibrationSet,
    activations: list[dict[str, npt.NDArray[Any]]],
    calibrator: str,
) -> None:
    ranges = collect_ranges(exported, contract, images, calibrator=calibrator)
    narrower = 0
    for name in activations[0]:
        values = np.abs(np.concatenate([image[name].reshape(-1) for image in activations]))
        reach, largest = max(map(abs, ranges[name])), float(values.max())
        assert 0 < reach <= largest * 1.02, name
        if calibrator == "percentile":
            beyond = float(np.mean(values > reach * 1.001))
            assert beyond <= 2e-4, name
        narrower += reach < 0.98 * largest
    assert narrower > 3


# Optimal clipping with 8 bits: 3.92 standard deviations of a normal distribution, 9.89 diversities of a Laplace
# distribution (Banner et al., "Post training 4-bit quantization", arXiv 1810.05723, and its code).
@pytest.mark.parametrize(("distribution", "best"), [("normal", 3.92), ("laplace", 9.89)])
def test_least_squares_clips_at_the_theoretical_optimum(distribution: str, best: float) -> None:
    values = getattr(np.random.default_rng(0), distribution)(size=2_000_000).astype(np.float32)
    counts, edges = np.histogram(values, bins=4096, range=(-16, 16))
    low, high = least_squares(counts, edges, float(values.min()), float(values.max()))
    assert low == pytest.approx(-best, rel=0.06)
    assert high == pytest.approx(best, rel=0.06)
    # Outputs of a Relu, half of which are 0.
    rectified = np.maximum(values, 0)
    counts, edges = np.histogram(rectified, bins=2048)
    low, high = least_squares(counts, edges, 0.0, float(rectified.max()))
    assert low == 0
    assert high == pytest.approx(best, rel=0.06)
    assert least_squares(counts * 0, edges, 0.0, 0.0) == (0.0, 0.0)
    coarse = np.histogram(values, bins=100)
    assert least_squares(*coarse, float(values.min()), float(values.max())) == (values.min(), values.max())


def test_an_unknown_calibrator_is_refused(
    exported: onnx.ModelProto, contract: DetectorContract, images: CalibrationSet
) -> None:
    with pytest.raises(ValueError, match="calibrator: expected one of percentile, minmax, entropy, mse, got 'max'"):
        collect_ranges(exported, contract, images, calibrator="max")


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_an_activation_that_is_not_finite_is_refused(
    calibrator: str, exported: onnx.ModelProto, contract: DetectorContract, images: CalibrationSet
) -> None:
    model = copy.deepcopy(exported)
    tensor = next(item for item in model.graph.initializer if item.name.endswith("bbox_reg.bias"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[:] = np.inf
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ExportError, match="expected finite values, got"):
        collect_ranges(model, contract, images, calibrator=calibrator)


class Counter:
    """A stand-in for ``_collect`` that counts its calls and returns different ranges each time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: Any) -> Ranges:
        self.calls += 1
        return {"tensor": (-1.0, float(self.calls))}


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    stand_in = Counter()
    monkeypatch.setattr(export.precision.ranges, "_collect", stand_in)
    return stand_in


def test_cached_ranges_are_used_again(
    exported: onnx.ModelProto, contract: DetectorContract, images: CalibrationSet, counter: Counter, tmp_path: Path
) -> None:
    first = collect_ranges(exported, contract, images, calibrator="minmax", cache=tmp_path)
    assert collect_ranges(exported, contract, images, calibrator="minmax", cache=tmp_path) == first
    assert counter.calls == 1
    collect_ranges(exported, contract, images, calibrator="minmax")
    assert counter.calls == 2


def other_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which one weight is changed by one bit."""
    model = copy.deepcopy(model)
    tensor = next(item for item in model.graph.initializer if item.name.endswith("conv1.weight"))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = np.nextafter(values[0, 0, 0, 0], np.float32(np.inf))
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


@pytest.mark.usefixtures("counter")
@pytest.mark.parametrize(
    "change",
    [
        lambda case: {**case, "network": other_weights(case["network"])},
        lambda case: {**case, "calibration": dataclasses.replace(case["calibration"], digest="0" * 64)},
        lambda case: {**case, "calibrator": "entropy"},
    ],
    ids=["one bit of a weight", "images", "calibrator"],
)
def test_ranges_of_other_inputs_are_not_used(
    exported: onnx.ModelProto,
    contract: DetectorContract,
    images: CalibrationSet,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
    case: dict[str, Any] = {
        "network": exported,
        "contract": contract,
        "calibration": images,
        "calibrator": "minmax",
        "cache": tmp_path,
    }
    collect_ranges(**case)
    assert collect_ranges(**change(case)) == {"tensor": (-1.0, 2.0)}


def test_ranges_of_another_onnx_runtime_are_not_used(
    exported: onnx.ModelProto,
    contract: DetectorContract,
    images: CalibrationSet,
    counter: Counter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collect_ranges(exported, contract, images, calibrator="minmax", cache=tmp_path)
    monkeypatch.setattr(onnxruntime, "__version__", "0.0.1")
    collect_ranges(exported, contract, images, calibrator="minmax", cache=tmp_path)
    assert counter.calls == 2


@pytest.mark.parametrize("content", ["", "[]", '{"tensor": 1}', '{"tensor": ["a", 2]}'])
def test_ranges_of_a_damaged_cache_file_are_collected_again(
    exported: onnx.ModelProto,
    contract: DetectorContract,
    images: CalibrationSet,
    counter: Counter,
    tmp_path: Path,
    content: str,
) -> None:
    collect_ranges(exported, contract, images, calibrator="minmax", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    assert collect_ranges(exported, contract, images, calibrator="minmax", cache=tmp_path) == {"tensor": (-1.0, 2.0)}
    assert collect_ranges(exported, contract, images, calibrator="minmax", cache=tmp_path) == {"tensor": (-1.0, 2.0)}
    assert counter.calls == 2
