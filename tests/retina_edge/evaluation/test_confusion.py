"""The confusion of a detector, in cases that are small enough to count by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.detections import Detections
from retina_edge.evaluation.confusion import Confusion, confusion

NAMES = ("tree", "bush")
Box = tuple[float, float, float, float]


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionDataset:
    """A data set with an image of two trees and a bush, and an image without objects."""
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
    return load_dataset(path, tmp_path)


def detections_of(*rows: tuple[Box, float, str], names: tuple[str, ...] = NAMES) -> Detections:
    """Return detections with the given box, score and class name each."""
    return Detections(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([names.index(row[2]) for row in rows], np.int32),
        names,
        tuple(range(len(names))),
    )


def confusion_of(dataset: DetectionDataset, *rows: tuple[Box, float, str], names: tuple[str, ...] = NAMES) -> Confusion:
    """Return the confusion of detections in the first image, with boxes that score more than 0.3."""
    return confusion([detections_of(*rows, names=names), detections_of(names=names)], dataset, 0.3)


TREE, OTHER, BUSH = (0.0, 0.0, 20.0, 20.0), (40.0, 0.0, 60.0, 20.0), (80.0, 0.0, 100.0, 20.0)


def test_correct_boxes_are_found(dataset: DetectionDataset) -> None:
    result = confusion_of(dataset, (TREE, 0.9, "tree"), (OTHER, 0.8, "tree"), (BUSH, 0.7, "bush"))
    assert result.rows() == [("tree", 2, 2, 0, 0, 0), ("bush", 1, 1, 0, 0, 0)]
    assert result.mistaken() == []


def test_objects_without_a_confident_box_are_missed(dataset: DetectionDataset) -> None:
    assert confusion_of(dataset).rows() == [("tree", 2, 0, 0, 2, 0), ("bush", 1, 0, 0, 1, 0)]
    unsure = confusion_of(dataset, (TREE, 0.3, "tree"))
    assert unsure.rows()[0] == ("tree", 2, 0, 0, 2, 0)


def test_a_box_of_another_class_is_a_mistaken_class(dataset: DetectionDataset) -> None:
    result = confusion_of(dataset, (BUSH, 0.9, "tree"), (TREE, 0.8, "tree"))
    assert result.mistaken() == [("bush", "tree", 1)]
    assert result.rows() == [("tree", 2, 1, 0, 1, 0), ("bush", 1, 0, 0, 0, 0)]
    assert result.to_dict()["mistaken"] == [{"class": "bush", "taken for": "tree", "count": 1}]


def test_a_box_prefers_an_object_of_its_own_class(dataset: DetectionDataset) -> None:
    """A box of a tree overlaps a bush completely, but also a tree: the box belongs to the tree."""
    dataset.images[0].boxes[2] = (2, 0, 22, 20)
    result = confusion_of(dataset, ((2.0, 0.0, 22.0, 20.0), 0.9, "tree"), (OTHER, 0.8, "tree"))
    assert result.rows() == [("tree", 2, 2, 0, 0, 0), ("bush", 1, 0, 0, 1, 0)]


def test_badly_located_boxes_and_duplicates_are_counted(dataset: DetectionDataset) -> None:
    off: Box = (8.0, 0.0, 28.0, 20.0)  # IoU 12/28
    result = confusion_of(
        dataset, (off, 0.9, "tree"), (OTHER, 0.8, "tree"), (OTHER, 0.7, "tree"), ((150, 50, 160, 60), 0.6, "bush")
    )
    assert result.rows() == [("tree", 2, 1, 1, 0, 1), ("bush", 1, 0, 0, 1, 1)]


def test_classes_that_the_data_set_lacks_are_not_false_alarms(dataset: DetectionDataset) -> None:
    result = confusion_of(dataset, ((150, 50, 160, 60), 0.9, "house"), names=("tree", "house"))
    assert result.false_alarms == {}


def test_boxes_in_a_crowd_of_their_class_are_not_false_alarms(dataset: DetectionDataset) -> None:
    content = json.loads(dataset.annotations.read_text())
    crowd = {"id": 9, "image_id": 0, "category_id": 7, "bbox": [100, 40, 100, 60], "iscrowd": 1}
    content["annotations"].append(crowd)
    dataset.annotations.write_text(json.dumps(content))
    dataset = load_dataset(dataset.annotations, dataset.annotations.parent)
    inside, half, outside = (110.0, 50.0, 120.0, 60.0), (94.0, 50.0, 110.0, 60.0), (70.0, 50.0, 110.0, 60.0)
    counted = confusion_of(
        dataset, (inside, 0.9, "tree"), (half, 0.9, "tree"), (outside, 0.9, "tree"), (inside, 0.9, "bush")
    )
    assert counted.false_alarms == {"tree": 1, "bush": 1}
    assert sum(row[1] for row in counted.rows()) == 3  # the crowd is not counted as an object
