"""The generated data set, and the comparison of recipes from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from benchmarks import recipe
from benchmarks.shapes import CLASSES, LARGEST, SIDE, SMALLEST, write_shapes
from benchmarks.tables import TABLES
from retina_edge.data.load import load_dataset


def test_shapes_are_where_their_boxes_are(tmp_path: Path) -> None:
    files = write_shapes(tmp_path, train=12, val=3)
    again = write_shapes(tmp_path / "again", train=12, val=3)
    data = [load_dataset(path, path.parent / "images") for path in files]
    assert [len(part) for part in data] == [12, 3]
    assert data[0].class_names == CLASSES
    seen: set[int] = set()
    for image, same in zip(data[0].images, load_dataset(again[0], tmp_path / "again" / "images").images, strict=True):
        np.testing.assert_array_equal(image.boxes, same.boxes)  # the same seed gives the same boxes
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        assert ((sides >= 0.5 * SMALLEST) & (sides <= LARGEST + 2)).all()
        assert image.read().shape == (SIDE, SIDE, 3)
        seen |= set(image.labels.tolist())
    assert seen == {0, 1, 2}
    contents = {path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert len(contents) == 15  # no image is in both parts
    # The center of a shape has one color, so its pixels vary less than those of the image.
    image = data[0].images[0]
    x1, y1, x2, y2 = image.boxes[0].astype(int)
    center = cv2.meanStdDev(
        image.read()[(y1 + y2) // 2 - 1 : (y1 + y2) // 2 + 1, (x1 + x2) // 2 - 1 : (x1 + x2) // 2 + 1]
    )
    assert float(center[1].mean()) < float(cv2.meanStdDev(image.read())[1].mean())


def test_both_recipes_are_trained_and_measured(results: Path) -> None:
    assert recipe.main(["--epochs", "1", "--samples", "16", "--images", "8", "4"]) == 0
    record = json.loads((results / "recipe.json").read_text())
    base, tuned = record["figures"]
    assert base["recipe"] == "the paper's recipe"
    assert "--anchors auto" in tuned["options"]
    assert all(0 <= row[name] <= 1 for row in (base, tuned) for name in ("AP", "AP50"))
    assert TABLES["recipe"](record).count("\n") == 3
