"""The model that ships really detects crowns, as a checkpoint and as an ONNX alike, and is small enough to ship."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import retina_edge
from retina_edge import Detector
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.evaluation.coco_metrics import evaluate

pytestmark = pytest.mark.long

ASSETS = Path(retina_edge.__file__).parent / "assets"
LEAST_AP50 = 0.65
# The checkpoint and the ONNX hold the same float16 weights; what is left is the order of summation. AP is 0 to 1.
SAME_AP = 0.0005
INT8_AP = 0.005
# Both store weights in float16, one of them with the normalization folded into them: each is off by up to 2^-11.
SAME_SCORES = 5e-4
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def dataset(treecrowns: Path) -> CocoDataset:
    return load_coco(treecrowns / "val.json", treecrowns / "images")


def test_it_finds_the_crowns_of_the_validation_strips(dataset: CocoDataset) -> None:
    results = {}
    for name in ("treecrowns.pt", "treecrowns.onnx"):
        with Detector.load(ASSETS / name) as detector:
            results[name] = evaluate(detector, dataset, batch=1).metrics
    for name, metrics in results.items():
        assert metrics["AP50"] >= LEAST_AP50, name
    for metric in ("AP", "AP50"):
        assert results["treecrowns.pt"][metric] == pytest.approx(results["treecrowns.onnx"][metric], abs=SAME_AP)


def test_other_precisions_find_as_many_crowns(dataset: CocoDataset, sample_models: dict[str, Path]) -> None:
    """Both INT8 layouts, calibrated on the forest that comes along; 0.5 points of AP is what they may lose."""
    found = {}
    for name, path in sample_models.items():
        with Detector.load(path) as detector:
            assert detector.contract.precision == name.partition("-")[0]
            found[name] = evaluate(detector, dataset, batch=1).metrics["AP"]
    assert found["fp16"] == pytest.approx(found["fp32"], abs=SAME_AP)
    for name in ("int8-tensorrt", "int8-cpu"):
        assert found[name] >= found["fp32"] - INT8_AP, name
        assert found[name] != found["fp32"]


def test_checkpoint_and_onnx_promise_the_same(frames: list[npt.NDArray[np.uint8]]) -> None:
    with Detector.load(ASSETS / "treecrowns.pt") as one, Detector.load(ASSETS / "treecrowns.onnx") as other:
        assert one.contract.input_size == other.contract.input_size == (416, 736)
        assert one.contract.levels == other.contract.levels
        assert one.contract.class_names == other.contract.class_names == ("tree",)
        ours, theirs = one(frames[0]).above(0.4), other(frames[0]).above(0.4)
    assert len(ours) == len(theirs) > 3
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.05)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=SAME_SCORES)


def test_model_and_imagery_are_small() -> None:
    data = Path(__file__).parents[1] / "data"
    files = [path for folder in (ASSETS, data) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20 * MEGABYTE
