"""COCO files: what is read, and how each defect is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from engines.core.errors import DataError, SourceError
from retina_edge.data.coco import load_coco

Content = dict[str, Any]

GOOD: Content = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 3, "file_name": "b.png", "width": 40, "height": 30},
    ],
    "categories": [{"id": 90, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 2, 10, 20]},
        {"id": 2, "image_id": 7, "category_id": 90, "bbox": [30.5, 0, 10, 30.4], "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 90, "bbox": [0, 0, 40, 30], "iscrowd": 1},
    ],
}


def write(folder: Path, content: Content) -> Path:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.full((30, 40, 3), 128, np.uint8))
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return path


def test_reads_boxes_labels_and_images_without_boxes(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, GOOD), tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.category_ids == (90, 5)
    first, second = data.images
    assert first.boxes.tolist() == [[1, 2, 11, 22], [30.5, 0, 40, 30]]  # half a pixel past the edge is clipped
    assert first.labels.tolist() == [1, 0]  # the crowd is not trained on
    assert second.id == 3
    assert second.boxes.shape == (0, 4)
    assert first.read().shape == (30, 40, 3)


def test_real_file_is_read_whole(treecrowns: Path) -> None:
    data = load_coco(treecrowns / "val.json", treecrowns / "images")
    assert len(data) == 16
    assert sum(len(image.boxes) for image in data.images) == 296


def put(*path: str | int, value: object) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        target: Any = content
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("annotations", value=[]), "found none at all"),
        (put("images", value=[]), "expected images, found none"),
        (put("categories", value=[]), "at least one category"),
        (put("categories", 1, "name", value="cat"), "each name once"),
        (put("annotations", value={}), "annotations is missing or no list"),
        (put("images", 0, "file_name", value="gone.png"), r"1 of 2 image files are missing .*gone.png \(image id 7\)"),
        (put("images", 0, "width", value="40"), "image id 7: width and height"),
        (put("images", 1, "id", value=7), r"images\[1\]: id 7 stands twice"),
        (put("annotations", 1, "id", value=1), r"annotations\[1\]: id 1 stands twice"),
        (put("annotations", 0, "id", value="x"), "id: expected an integer"),
        (put("annotations", 0, value={"id": 1}), "missing: image_id, category_id, bbox"),
        (put("annotations", 0, "image_id", value=99), "annotation id 1: image_id 99 is no image"),
        (put("annotations", 0, "category_id", value=1), r"category_id 1 is unknown \(known: 90, 5\)"),
        (put("annotations", 0, "bbox", value=[1, 2, 3]), "four finite numbers"),
        (put("annotations", 0, "bbox", value=[1, 2, "3", 4]), "four finite numbers"),
        (put("annotations", 0, "bbox", value=[1, 2, float("nan"), 4]), "four finite numbers"),
        (put("annotations", 0, "bbox", value=[True, 2, 3, 4]), "four finite numbers"),
        (put("annotations", 0, "bbox", value=[1, 2, 0, 4]), "annotation id 1, image a.png .*has no area.*skip-invalid"),
        (put("annotations", 0, "bbox", value=[1, 2, -5, 4]), "has no area"),
        (put("annotations", 0, "bbox", value=[35, 2, 10, 4]), "5 pixels outside"),
        (put("annotations", 0, "bbox", value=[-0.9, 2, 0.5, 4]), "outside the image"),
    ],
)
def test_defects_are_refused_by_name(tmp_path: Path, change: Callable[[Content], None], said: str) -> None:
    content = copy.deepcopy(GOOD)
    change(content)
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=said) as caught:
        load_coco(path, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_invalid_boxes_are_left_out_on_request_only(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["annotations"][0]["bbox"] = [1, 2, 0, 4]
    data = load_coco(write(tmp_path, content), tmp_path, skip_invalid=True)
    assert data.skipped == {1}
    assert len(data.images[0].boxes) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe"])
def test_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"expected .*COCO"):
        load_coco(path, tmp_path)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no file"):
        load_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(DataError, match="expected the folder of the images"):
        load_coco(write(tmp_path, GOOD), tmp_path / "none")


def test_image_of_another_size_or_undecodable_is_refused_when_read(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, GOOD), tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 30, 3), np.uint8))
    with pytest.raises(DataError, match=r"a.png: the annotations say 40x30 .* image has 30x40"):
        data.images[0].read()
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"b.png: expected an image"):
        data.images[1].read()
