"""Pictures of errors have each box in the color of its outcome."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from retina_edge.data.dataset import DetectionDataset, LabeledImage
from retina_edge.detections import Detections
from retina_edge.evaluation.confusion import match_image
from retina_edge.evaluation.error_picture import (
    FOUND_COLOR,
    MISSED_COLOR,
    WRONG_COLOR,
    count_errors,
    draw_errors,
    examples,
)

GRAY = (90, 90, 90)


def labeled(
    path: Path, boxes: list[list[float]], labels: list[int], size: tuple[int, int] = (200, 300)
) -> LabeledImage:
    cv2.imwrite(str(path), np.full((*size, 3), GRAY, np.uint8))
    array = np.array(boxes, np.float32).reshape(-1, 4)
    sides = array[:, 2:] - array[:, :2]
    truth = np.concatenate([array[:, :2], sides, sides.prod(axis=1, keepdims=True)], axis=1).astype(np.float64)
    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    return LabeledImage(path.name, path, size, array, np.array(labels, np.int64), *none, truth)


def dataset_of(*images: LabeledImage, names: tuple[str, ...] = ("tree", "bush")) -> DetectionDataset:
    return DetectionDataset(Path("made.json"), names, tuple(range(1, len(names) + 1)), images)


def found(names: tuple[str, ...], *rows: tuple[list[float], int, float]) -> Detections:
    return Detections(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, _, score in rows], np.float32),
        np.array([label for _, label, _ in rows], np.int32),
        names,
        tuple(range(1, len(names) + 1)),
    )


OBJECTS: list[list[float]] = [[20, 20, 60, 60], [100, 20, 140, 60], [180, 20, 220, 60], [20, 120, 60, 160]]
LABELS = [0, 0, 0, 1]


def test_each_box_has_the_color_of_its_outcome(tmp_path: Path) -> None:
    image = labeled(tmp_path / "a.png", OBJECTS, LABELS)
    data = dataset_of(image)
    detections = found(
        data.class_names,
        ([20, 20, 60, 60], 0, 0.9),  # found
        ([100, 120, 140, 160], 0, 0.8),  # a false alarm
        ([20, 120, 60, 160], 0, 0.7),  # a bush that is taken for a tree
        ([200, 40, 240, 80], 0, 0.6),  # near the third tree: an IoU of 400 / 2800
        ([100, 20, 140, 60], 0, 0.3),  # below the score, so the second tree is missed
    )
    outcome = match_image(detections, image, data, 0.4)
    assert outcome.objects == ("tree", "missed", "box off", "tree")
    assert outcome.taken.tolist() == [0, -1, 3, 2]
    assert outcome.false_alarms.tolist() == [False, True, False, False]
    assert outcome.found(image, data).tolist() == [True, False, False, False]
    assert count_errors(outcome, image, data) == (3, 1)
    picture = draw_errors(image, detections, data, score=0.4, side=300)
    assert picture.shape == (200, 300, 3)
    # The middle of the lower edge, where no label lies.
    for (x, y), color in (
        ((40, 60), FOUND_COLOR),
        ((120, 60), MISSED_COLOR),
        ((120, 160), WRONG_COLOR),
        ((40, 160), WRONG_COLOR),
        ((220, 80), WRONG_COLOR),
        ((270, 180), GRAY),
    ):
        assert tuple(picture[y, x].tolist()) == color, (x, y)


def test_a_large_image_is_drawn_small_with_its_boxes_in_place(tmp_path: Path) -> None:
    image = labeled(tmp_path / "a.png", [[400, 200, 800, 600]], [0], size=(800, 1600))
    data = dataset_of(image, names=("tree",))
    picture = draw_errors(image, Detections.empty(["tree"], [1]), data, score=0.4, side=400)
    assert picture.shape == (200, 400, 3)
    assert tuple(picture[150, 150].tolist()) == MISSED_COLOR
    assert draw_errors(image, Detections.empty(["tree"], [1]), data, score=0.4, side=4000).shape == (800, 1600, 3)


@pytest.mark.parametrize("name", ["名前", "a" * 500, "\x1b[2J"])
def test_names_that_opencv_cannot_draw_do_no_harm(tmp_path: Path, name: str) -> None:
    image = labeled(tmp_path / "a.png", OBJECTS, LABELS)
    data = dataset_of(image, names=(name, "bush"))
    detections = found(data.class_names, ([100, 120, 140, 160], 0, 0.8))
    picture = draw_errors(image, detections, data, score=0.4, side=300)
    assert tuple(picture[160, 120].tolist()) == WRONG_COLOR


@pytest.mark.parametrize(
    ("objects", "count", "expected"),
    [
        ([1, 0, 1, 1, 0, 1, 1], 3, [0, 3, 6]),
        ([0, 0, 1], 3, [2]),
        ([0, 0], 3, []),
        ([1, 1], 1, [0]),
        ([1] * 5, 5, [0, 1, 2, 3, 4]),
    ],
)
def test_examples_are_spread_over_the_images_with_objects(
    tmp_path: Path, objects: list[int], count: int, expected: list[int]
) -> None:
    images = [labeled(tmp_path / f"{n}.png", OBJECTS[:has], LABELS[:has]) for n, has in enumerate(objects)]
    assert examples(dataset_of(*images), count) == expected
