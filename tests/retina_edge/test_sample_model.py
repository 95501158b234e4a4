"""The sample model: it detects tree crowns, as a checkpoint and as an ONNX, and its files are small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import retina_edge
from retina_edge import Detector
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.evaluation.coco_metrics import evaluate

pytestmark = pytest.mark.start_first

ASSETS = Path(retina_edge.__file__).parent / "assets"
LEAST_AP50 = 0.65
# Allowed difference of AP (0 to 1): checkpoint and ONNX have the same float16 weights, but another order of summation.
SAME_AP = 0.0005
# AP that INT8 may lose.
INT8_AP = 0.005
# Allowed difference of scores. Both files store weights in float16, one of them with the normalization folded in, so
# each is off by up to 2^-11.
SAME_SCORES = 5e-4
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def dataset(treecrowns: Path) -> DetectionDataset:
    return load_dataset(treecrowns / "val.json", treecrowns / "images")


@pytest.mark.slow
def test_checkpoint_and_onnx_find_the_crowns_of_the_validation_strips(dataset: DetectionDataset) -> None:
    results = {}
    for name in ("treecrowns.pt", "treecrowns.onnx"):
        with Detector.load(ASSETS / name) as detector:
            results[name] = evaluate(detector, dataset, batch=1).metrics
    for name, metrics in results.items():
        assert metrics["AP50"] >= LEAST_AP50, name
    for metric in ("AP", "AP50"):
        assert results["treecrowns.pt"][metric] == pytest.approx(results["treecrowns.onnx"][metric], abs=SAME_AP)


@pytest.mark.slow
def test_other_precisions_find_as_many_crowns(dataset: DetectionDataset, sample_models: dict[str, Path]) -> None:
    """Both INT8 layouts, calibrated on windows of the sample image, may lose 0.5 AP points."""
    ap = {}
    for name, path in sample_models.items():
        with Detector.load(path) as detector:
            assert detector.contract.precision == name.partition("-")[0]
            ap[name] = evaluate(detector, dataset, batch=1).metrics["AP"]
    assert ap["fp16"] == pytest.approx(ap["fp32"], abs=SAME_AP)
    for name in ("int8-tensorrt", "int8-cpu"):
        assert ap[name] >= ap["fp32"] - INT8_AP, name
        assert ap[name] != ap["fp32"]


def test_checkpoint_and_onnx_have_the_same_contract_and_detections(frames: list[npt.NDArray[np.uint8]]) -> None:
    with Detector.load(ASSETS / "treecrowns.pt") as checkpoint, Detector.load(ASSETS / "treecrowns.onnx") as deployed:
        assert checkpoint.contract.input_size == deployed.contract.input_size == (416, 736)
        assert checkpoint.contract.levels == deployed.contract.levels
        assert checkpoint.contract.class_names == deployed.contract.class_names == ("tree",)
        expected, actual = checkpoint(frames[0]), deployed(frames[0])
    # Row by row: both are FP32, and the rounding of convolutions, about 1e-6 of a logit, exchanges two boxes in NMS or
    # in their order only if their scores are as close. Weights and image are fixed.
    assert len(expected) == len(actual) > 3
    np.testing.assert_allclose(actual.boxes, expected.boxes, atol=0.05)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=SAME_SCORES)


def test_assets_and_test_data_are_small() -> None:
    data = Path(__file__).parents[1] / "data"
    files = [path for folder in (ASSETS, data) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20 * MEGABYTE
