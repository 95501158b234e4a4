"""What becomes of each object, in cases small enough to be counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.ops import box_iou

from retina_edge.data.box_overlap import iou
from retina_edge.data.coco import CocoDataset, load_coco
from retina_edge.detections import Detections
from retina_edge.evaluation.confusion import Confusion, confusion

NAMES = ("tree", "bush")
Box = tuple[float, float, float, float]


@pytest.fixture
def dataset(tmp_path: Path) -> CocoDataset:
    """One picture with two trees and a bush, another with nothing."""
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((100, 200, 3), np.uint8))
    boxes = [(0, 0, 20, 20, 7), (40, 0, 20, 20, 7), (80, 0, 20, 20, 9)]
    content = {
        "categories": [{"id": 7, "name": "tree"}, {"id": 9, "name": "bush"}],
        "images": [
            {"id": number, "file_name": name, "width": 200, "height": 100}
            for number, name in enumerate(("a.png", "b.png"))
        ],
        "annotations": [
            {"id": number, "image_id": 0, "category_id": category, "bbox": [x, y, width, height]}
            for number, (x, y, width, height, category) in enumerate(boxes)
        ],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return load_coco(path, tmp_path)


def found(*rows: tuple[Box, float, str], names: tuple[str, ...] = NAMES) -> Detections:
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([names.index(row[2]) for row in rows], np.int32),
        names,
        tuple(range(len(names))),
    )


def calls(dataset: CocoDataset, *rows: tuple[Box, float, str], names: tuple[str, ...] = NAMES) -> Confusion:
    return confusion([found(*rows, names=names), found(names=names)], dataset, 0.3)


TREE, OTHER, BUSH = (0.0, 0.0, 20.0, 20.0), (40.0, 0.0, 60.0, 20.0), (80.0, 0.0, 100.0, 20.0)


def test_all_right(dataset: CocoDataset) -> None:
    result = calls(dataset, (TREE, 0.9, "tree"), (OTHER, 0.8, "tree"), (BUSH, 0.7, "bush"))
    assert result.rows() == [("tree", 2, 2, 0, 0, 0), ("bush", 1, 1, 0, 0, 0)]
    assert result.mistaken() == []


def test_nothing_found(dataset: CocoDataset) -> None:
    assert calls(dataset).rows() == [("tree", 2, 0, 0, 2, 0), ("bush", 1, 0, 0, 1, 0)]
    unsure = calls(dataset, (TREE, 0.3, "tree"))
    assert unsure.rows()[0] == ("tree", 2, 0, 0, 2, 0)


def test_a_class_taken_for_another(dataset: CocoDataset) -> None:
    result = calls(dataset, (BUSH, 0.9, "tree"), (TREE, 0.8, "tree"))
    assert result.mistaken() == [("bush", "tree", 1)]
    assert result.rows() == [("tree", 2, 1, 0, 1, 0), ("bush", 1, 0, 0, 0, 0)]
    assert result.to_dict()["mistaken"] == [{"class": "bush", "taken for": "tree", "count": 1}]


def test_a_class_is_not_taken_for_another_where_its_own_is_there(dataset: CocoDataset) -> None:
    """A tree as good as on the bush, but on a tree, too: it is the tree's."""
    dataset.images[0].boxes[2] = (2, 0, 22, 20)
    result = calls(dataset, ((2.0, 0.0, 22.0, 20.0), 0.9, "tree"), (OTHER, 0.8, "tree"))
    assert result.rows() == [("tree", 2, 2, 0, 0, 0), ("bush", 1, 0, 0, 1, 0)]


def test_a_box_that_is_off_and_one_too_many(dataset: CocoDataset) -> None:
    off: Box = (8.0, 0.0, 28.0, 20.0)  # IoU 12/28
    result = calls(
        dataset, (off, 0.9, "tree"), (OTHER, 0.8, "tree"), (OTHER, 0.7, "tree"), ((150, 50, 160, 60), 0.6, "bush")
    )
    assert result.rows() == [("tree", 2, 1, 1, 0, 1), ("bush", 1, 0, 0, 1, 1)]


def test_classes_that_the_data_set_has_not_are_no_false_alarms(dataset: CocoDataset) -> None:
    result = calls(dataset, ((150, 50, 160, 60), 0.9, "house"), names=("tree", "house"))
    assert result.false_alarms == {}


def test_overlaps_are_those_of_torchvision() -> None:
    generator = np.random.default_rng(0)

    def boxes(count: int) -> npt.NDArray[np.float32]:
        corners = generator.uniform(0, 50, (count, 2))
        return np.concatenate([corners, corners + generator.uniform(0, 50, (count, 2))], axis=1).astype(np.float32)

    ours, theirs = boxes(40), boxes(30)
    expected = box_iou(torch.from_numpy(ours), torch.from_numpy(theirs)).numpy()
    np.testing.assert_allclose(iou(ours[:, None], theirs), expected, atol=1e-6)
    flat = np.zeros((1, 4), np.float32)
    assert iou(flat, flat) == 0
    assert iou(flat[:0, None], theirs).shape == (0, 30)


def test_a_crowd_of_its_class_is_no_false_alarm(dataset: CocoDataset) -> None:
    content = json.loads(dataset.annotations.read_text())
    crowd = {"id": 9, "image_id": 0, "category_id": 7, "bbox": [100, 40, 100, 60], "iscrowd": 1}
    content["annotations"].append(crowd)
    dataset.annotations.write_text(json.dumps(content))
    dataset = load_coco(dataset.annotations, dataset.annotations.parent)
    inside, half, outside = (110.0, 50.0, 120.0, 60.0), (94.0, 50.0, 110.0, 60.0), (70.0, 50.0, 110.0, 60.0)
    counted = calls(dataset, (inside, 0.9, "tree"), (half, 0.9, "tree"), (outside, 0.9, "tree"), (inside, 0.9, "bush"))
    assert counted.false_alarms == {"tree": 1, "bush": 1}
    assert sum(row[1] for row in counted.rows()) == 3  # it is no object either
