"""``Detections``: validation, selection of rows, and conversion to other libraries' formats."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from engines.core.errors import MissingDependencyError
from retina_edge import Detections

NAMES, IDS = ("person", "car"), (1, 90)


def make(count: int = 3) -> Detections:
    boxes = np.arange(4 * count, dtype=np.float32).reshape(count, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    return Detections(boxes, scores, (np.arange(count) % 2).astype(np.int32), NAMES, IDS)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_detections_have_a_length_and_class_names(count: int) -> None:
    detections = make(count)
    assert len(detections) == count
    assert detections.names == [NAMES[i % 2] for i in range(count)]


def test_empty_detections_can_be_used_like_others() -> None:
    empty = Detections.empty(list(NAMES), list(IDS))
    assert len(empty) == 0
    assert empty.boxes.shape == (0, 4)
    assert empty.to_coco() == []
    assert len(empty.above(0.1)) == 0
    assert len(empty[np.zeros(0, bool)]) == 0


@pytest.mark.parametrize("rows", [slice(1, 3), np.array([False, True, True]), np.array([1, 2])])
def test_rows_are_selected_by_slice_mask_or_indices(rows: Any) -> None:
    chosen = make()[rows]
    assert (chosen.boxes == make().boxes[1:]).all()
    assert chosen.labels.tolist() == [1, 0]
    assert chosen.class_names == NAMES


def test_above_excludes_the_score_itself_and_keeps_the_original() -> None:
    detections = make()
    assert len(detections.above(0.0)) == 3
    assert detections.above(float(detections.scores[1])).scores.tolist() == [detections.scores[0]]
    assert len(detections.above(0.99)) == 0
    assert len(detections) == 3


def test_coco_results_have_category_ids_and_xywh_boxes() -> None:
    results = make(2).to_coco(image_id=7)
    assert results[1] == {
        "image_id": 7,
        "category_id": 90,
        "bbox": [4.0, 5.0, 6.0, 7.0],
        "score": pytest.approx(0.5),
    }
    assert all(type(side) is float for side in results[0]["bbox"])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_detections_are_converted_to_supervision(count: int) -> None:
    supervision = pytest.importorskip("supervision")
    converted = make(count).to_supervision()
    assert isinstance(converted, supervision.Detections)
    assert len(converted) == count
    assert (converted.xyxy == make(count).boxes).all()
    assert converted.data["class_name"].tolist() == make(count).names


def test_without_supervision_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *args: Any, **keywords: Any) -> Any:
        if name == "supervision":
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(MissingDependencyError, match="pip install supervision"):
        make().to_supervision()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((2, 4), np.float32)}, r"boxes: expected float32 \[3, 4\], got float32 \[2, 4\]"),
        ({"boxes": np.zeros((3, 4), np.float64)}, "boxes: expected float32.*float64"),
        ({"scores": np.zeros((3, 1), np.float32)}, "scores"),
        ({"labels": np.zeros(3, np.int64)}, "labels: expected int32.*int64"),
        ({"labels": np.array([0, 1, 2], np.int32)}, "labels: expected 0 to 1"),
        ({"labels": np.array([0, -1, 1], np.int32)}, "labels: expected 0 to 1"),
        ({"category_ids": (1,)}, "category id"),
    ],
)
def test_invalid_fields_are_refused(changes: dict[str, Any], message: str) -> None:
    valid = make()
    fields = {name: getattr(valid, name) for name in ("boxes", "scores", "labels", "class_names", "category_ids")}
    with pytest.raises(ValueError, match=message):
        Detections(**{**fields, **changes})
