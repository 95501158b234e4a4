"""Comparison of two models: matched boxes, drift, and the report."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from export.precision.conversion import convert_file
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.detections import Detections
from retina_edge.evaluate import main
from retina_edge.evaluation.coco_metrics import METRICS, evaluate_detections
from retina_edge.evaluation.comparison import MAX_SHOWN_IMAGES, ModelResult, compare
from retina_edge.evaluation.comparison_report import write_report


@pytest.fixture
def dataset(treecrowns: Path) -> DetectionDataset:
    return load_dataset(treecrowns / "val.json", treecrowns / "images")


def truth(dataset: DetectionDataset, names: tuple[str, ...] = ("tree",)) -> list[Detections]:
    """Return the objects of the data set as detections, with scores from 0.9 to 0.5."""
    return [
        Detections(
            image.boxes.copy(),
            np.linspace(0.9, 0.5, len(image.boxes), dtype=np.float32),
            np.full(len(image.boxes), names.index("tree"), np.int32),
            names,
            tuple(range(len(names))),
        )
        for image in dataset.images
    ]


def model_result(name: str, found: list[Detections], dataset: DetectionDataset) -> ModelResult:
    """Evaluate detections, and return them as the result of a model."""
    return ModelResult(name, evaluate_detections(found, dataset), found)


def test_equal_detections_have_no_differences(dataset: DetectionDataset, tmp_path: Path) -> None:
    found = truth(dataset)
    comparison = compare(model_result("a.pt", found, dataset), model_result("b.onnx", found, dataset), dataset, 0.3)
    values = comparison.to_dict()
    assert (values["matched"], values["lost"], values["new"]) == (296, 0, 0)
    assert (values["AP difference"], values["mean absolute score drift"]) == (0, 0)
    assert (values["share with a partner"], values["mean displacement"]) == (1, 0)
    assert values["mean IoU"] == pytest.approx(1, abs=1e-6)
    assert values["most changed"] == []
    page = write_report(comparison, tmp_path / "report").read_text()
    assert "b.onnx compared with a.pt" in page
    assert "AP +0.00 points" in page


def test_lost_and_new_boxes_and_drift_are_counted(dataset: DetectionDataset) -> None:
    """The models order their classes differently, so the names must decide."""
    first, second = truth(dataset), truth(dataset, ("bush", "tree"))
    changed = second[3]
    boxes, scores = changed.boxes[1:].copy(), changed.scores[1:].copy()  # one box is lost
    scores -= 0.1
    extra = np.array([[0, 0, 9, 9]], np.float32)
    second[3] = Detections(
        np.concatenate([extra, boxes]),
        np.concatenate([np.array([0.95], np.float32), scores]),
        np.concatenate([np.array([0], np.int32), changed.labels[1:]]),
        changed.class_names,
        changed.category_ids,
    )
    comparison = compare(model_result("a.pt", first, dataset), model_result("b.onnx", second, dataset), dataset, 0.3)
    values = comparison.to_dict()
    assert (values["matched"], values["lost"], values["new"]) == (295, 1, 1)
    worst = comparison.changes[0]
    assert worst.image is dataset.images[3]
    assert worst.lost.scores.tolist() == pytest.approx([0.9])
    assert worst.new.names == ["bush"]
    np.testing.assert_allclose(worst.drift, -0.1, atol=1e-6)
    assert worst.size == pytest.approx(0.9 + 0.95 + 0.1 * len(boxes), abs=1e-3)
    drift = 0.1 * len(boxes) / 295
    assert values["mean absolute score drift"] == pytest.approx(drift, abs=1e-6)
    assert values["mean score drift"] == pytest.approx(-drift, abs=1e-6)
    assert (values["share with a partner"], values["mean displacement"]) == pytest.approx((295 / 296, 0))
    assert "; 99.7% of the boxes of a.pt have a partner in b.onnx, 0.00 pixels away on average" in comparison.summary()
    assert [change.size > 1e-3 for change in comparison.changes] == [True, *[False] * 15]


def test_a_score_just_below_the_threshold_loses_a_box_but_not_its_partner(dataset: DetectionDataset) -> None:
    first, second = truth(dataset), truth(dataset)
    second[0].scores[-1] = 0.45
    comparison = compare(model_result("a", first, dataset), model_result("b", second, dataset), dataset, 0.46)
    values = comparison.to_dict()
    assert (values["lost"], values["share with a partner"]) == (1, 1)


def test_boxes_of_different_classes_do_not_match(dataset: DetectionDataset) -> None:
    first = truth(dataset, ("tree", "bush"))
    second = [
        Detections(item.boxes, item.scores, 1 - item.labels, item.class_names, item.category_ids) for item in first
    ]
    comparison = compare(model_result("a", first, dataset), model_result("b", second, dataset), dataset, 0.3)
    values = comparison.to_dict()
    assert (values["matched"], values["lost"], values["new"]) == (0, 296, 296)
    assert values["mean score drift"] is None
    assert (values["share with a partner"], values["mean displacement"]) == (0, None)
    assert "0 found by both" in comparison.summary()


def test_models_without_detections_can_be_compared(dataset: DetectionDataset, tmp_path: Path) -> None:
    nothing = [Detections.empty(("tree",), (1,)) for _ in dataset.images]
    comparison = compare(model_result("a", nothing, dataset), model_result("b", nothing, dataset), dataset, 0.3)
    assert comparison.to_dict()["matched"] == 0
    assert comparison.to_dict()["share with a partner"] is None
    assert "Nothing changed." in write_report(comparison, tmp_path).read_text()
    assert cv2.imread(str(tmp_path / "changes.png")) is not None


def test_the_verb_writes_a_self_contained_page(
    checkpoint: Path,
    tiny_onnx: Path,
    frames: list[npt.NDArray[np.uint8]],
    treecrowns: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "<b>half.onnx"  # a name that HTML must escape
    convert_file(tiny_onnx, other, "fp16", images=frames[:1])
    result, report = tmp_path / "result.json", tmp_path / "report"
    words = [other, treecrowns / "val.json", "--images", treecrowns / "images", "--score", "0.1", "--json", result]
    assert main([*map(str, words), "--against", str(checkpoint), "--report", str(report)]) == 0
    output = capsys.readouterr().out
    assert "found by both" in output
    assert str(report / "index.html") in output.replace("\n", "")
    values = json.loads(result.read_text())
    assert values["against"]["matched"] > 100
    assert values["against"]["mean IoU"] > 0.95
    assert values["against"]["share with a partner"] > 0.95
    assert values["against"]["mean displacement"] < 1
    assert values["confusion"]["classes"][0]["objects"] == 296
    assert set(values["metrics"]) == set(METRICS)
    page = (report / "index.html").read_text()
    assert "&lt;b&gt;half.onnx compared with tiny.pt" in page
    assert "<b>half" not in page
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,)', page)
    pictures = re.findall(r'base64,([^"]+)"', page)
    assert 0 < len(pictures) <= MAX_SHOWN_IMAGES
    image = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0]), np.uint8), cv2.IMREAD_COLOR)
    sheet = cv2.imread(str(report / "changes.png"))
    assert image is not None
    assert sheet is not None
    assert sheet.shape[1] == image.shape[1]
    assert sheet.shape[0] >= image.shape[0] * len(pictures)


def test_a_missing_model_leaves_no_report(
    checkpoint: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [checkpoint, treecrowns / "val.json", "--images", treecrowns / "images", "--against", tmp_path / "no.onnx"]
    assert main([*map(str, words), "--report", str(tmp_path / "report")]) == 1
    assert "no.onnx: expected an ONNX file, found none" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("score", ["1", "-0.1", "nan", "sure"])
def test_an_invalid_score_is_refused(checkpoint: Path, score: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(checkpoint), "val.json", "--images", ".", f"--score={score}"])
    assert "expected a score from 0 to below 1" in capsys.readouterr().err


def test_a_report_needs_a_model_to_compare_with(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(checkpoint), "val.json", "--images", ".", "--report", "there"])
    assert "--report belongs to --against OTHER_MODEL" in capsys.readouterr().err
