"""Reading COCO files, and the error for each defect."""

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
from retina_edge.data.load import load_dataset

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
    data = load_dataset(write(tmp_path, GOOD), tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.category_ids == (90, 5)
    first, second = data.images
    assert first.boxes.tolist() == [[1, 2, 11, 22], [30.5, 0, 40, 30]]  # half a pixel outside the image is clipped
    assert first.labels.tolist() == [1, 0]  # without the crowd
    assert second.id == 3
    assert second.boxes.shape == (0, 4)
    assert first.read().shape == (30, 40, 3)


def test_a_real_file_is_read_completely(treecrowns: Path) -> None:
    data = load_dataset(treecrowns / "val.json", treecrowns / "images")
    assert len(data) == 16
    assert sum(len(image.boxes) for image in data.images) == 296


def replace(*path: str | int, value: object) -> Callable[[Content], None]:
    """Return a function that replaces the value at a path of keys and indices."""

    def change(content: Content) -> None:
        target: Any = content
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("annotations", value=[]), "expected annotations, found none"),
        (replace("images", value=[]), "expected images, found none"),
        (replace("categories", value=[]), "at least one category"),
        (replace("categories", 1, "name", value="cat"), "each name once"),
        (replace("annotations", value={}), "annotations is missing or not a list"),
        (
            replace("images", 0, "file_name", value="gone.png"),
            r"cannot use 1 of 2 images: gone.png, image id 7 \(the file is missing\)",
        ),
        (replace("images", 0, "file_name", value=""), "image id 7: file_name: expected the name of a file"),
        (replace("images", 0, "width", value=40.5), "image id 7: width and height: .* got 40.5 and 30"),
        (replace("images", 0, "width", value=0), "image id 7: width and height"),
        (replace("images", 0, "height", value=True), "image id 7: width and height"),
        (replace("images", 1, "id", value=7), r"images\[1\]: id 7 occurs twice"),
        (replace("annotations", 1, "id", value=1), r"annotations\[1\]: id 1 occurs twice"),
        (
            replace("annotations", 0, "id", value=True),
            r"annotations\[0\]: id: expected a whole number or text, got true",
        ),
        (replace("categories", 0, "id", value=[90]), r"categories\[0\]: id: expected .*, got \[90\]"),
        (replace("categories", 0, "name", value=None), "category id 90: name: expected text, got null"),
        (replace("annotations", 0, "iscrowd", value=2), "annotation id 1: iscrowd: expected 0 or 1, got 2"),
        (replace("annotations", 0, "iscrowd", value="no"), 'annotation id 1: iscrowd: expected 0 or 1, got "no"'),
        (replace("annotations", 0, value={"id": 1}), "missing: image_id, category_id, bbox"),
        (replace("annotations", 0, "image_id", value=99), "annotation id 1: image_id 99 is unknown"),
        (replace("annotations", 0, "image_id", value=[7]), r"annotation id 1: image_id \[7\] is unknown"),
        (replace("annotations", 0, "category_id", value=1), r"category_id 1 is unknown \(known: 90, 5\)"),
        (replace("annotations", 0, "category_id", value={"id": 5}), r'category_id {"id": 5} is unknown'),
        (replace("annotations", 0, "bbox", value=[1, 2, 3]), "four finite numbers"),
        (replace("annotations", 0, "bbox", value=[1, 2, "three", 4]), "four finite numbers"),
        (replace("annotations", 0, "bbox", value=[1, 2, float("nan"), 4]), "four finite numbers"),
        (replace("annotations", 0, "bbox", value=[True, 2, 3, 4]), "four finite numbers"),
        (
            replace("annotations", 0, "bbox", value=[1, 2, 0, 4]),
            "annotation id 1, image a.png .*has no area.*skip-invalid",
        ),
        (replace("annotations", 0, "bbox", value=[1, 2, -5, 4]), "has no area"),
        (replace("annotations", 0, "bbox", value=[35, 2, 10, 4]), "5 pixels outside"),
        (replace("annotations", 0, "bbox", value=[-0.9, 2, 0.5, 4]), "outside the image"),
    ],
)
def test_the_error_names_the_defect_and_the_file(
    tmp_path: Path, change: Callable[[Content], None], message: str
) -> None:
    content = copy.deepcopy(GOOD)
    change(content)
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(path, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_true_is_not_the_id_1(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["images"][0]["id"] = content["categories"][1]["id"] = 1
    for annotation in content["annotations"]:
        annotation.update(image_id=1, category_id=1)
    load_dataset(write(tmp_path, content), tmp_path)
    for key in ("image_id", "category_id"):
        changed = copy.deepcopy(content)
        changed["annotations"][0][key] = True
        with pytest.raises(DataError, match=f"annotation id 1: {key} true is unknown"):
            load_dataset(write(tmp_path, changed), tmp_path)


def test_invalid_boxes_are_skipped_only_on_request(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["annotations"][0]["bbox"] = [1, 2, 0, 4]
    data = load_dataset(write(tmp_path, content), tmp_path, skip_invalid=True)
    assert data.skipped == 1
    assert data.remarks == ("labels.json: 1 invalid boxes skipped",)
    assert len(data.images[0].boxes) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "\xff\xfe"])
def test_text_that_is_not_coco_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"expected .*COCO"):
        load_dataset(path, tmp_path)


def test_a_missing_file_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no file"):
        load_dataset(tmp_path / "none.json", tmp_path)
    with pytest.raises(DataError, match="expected the folder with the images"):
        load_dataset(write(tmp_path, GOOD), tmp_path / "none")


def test_reading_refuses_an_image_of_another_size_or_that_cannot_be_decoded(tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path, GOOD), tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 30, 3), np.uint8))
    with pytest.raises(DataError, match=r"a.png: expected 40x30 pixels .* got 30x40"):
        data.images[0].read()
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(SourceError, match=r"b.png: expected an image"):
        data.images[1].read()
