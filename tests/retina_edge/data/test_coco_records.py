"""Values of COCO records as other programs write them: the same data set, or a refusal by record."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.core.errors import DataError
from retina_edge import Detections
from retina_edge.api.training_data import TrainingData
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.evaluation.coco_metrics import evaluate_detections
from tests.json_path import MISSING, put_at

Content = dict[str, Any]

GOOD: Content = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [20, 0, 10, 30], "area": 300, "iscrowd": 0},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 30], "area": 1200, "iscrowd": 1},
    ],
}
NUMBERS: tuple[str, ...] = (
    *("images.0.id", "images.0.width", "images.0.height", "categories.1.id", "annotations.1.id"),
    *("annotations.0.image_id", "annotations.0.category_id", "annotations.0.area", "annotations.2.iscrowd"),
    *(f"annotations.0.bbox.{index}" for index in range(4)),
)
JUNK: tuple[Any, ...] = (
    *(None, MISSING, [], {}, [1], "", "x", "1e999", "٣", "\ud800"),
    *(math.nan, math.inf, True, -7, 10**30, 10**400, 1.5),
)
FIELDS = (*NUMBERS, "images.0.file_name", "categories.0.name", "annotations.0.bbox", "images.0", "annotations.1")


def changed(path: str, value: Any) -> Content:
    """Return the good content with another value at a path of keys and indices."""
    content = copy.deepcopy(GOOD)
    put_at(content, path, value)
    return content


def at(path: str) -> Any:
    value: Any = GOOD
    for key in path.split("."):
        value = value[int(key) if key.isdigit() else key]
    return value


def read(folder: Path, content: Content) -> DetectionDataset:
    path = folder / "labels.json"
    path.write_text(json.dumps(content))
    return load_dataset(path, need_images=False)


def assert_same(one: DetectionDataset, other: DetectionDataset) -> None:
    assert one.class_names == other.class_names
    for image, expected in zip(one.images, other.images, strict=True):
        assert image.size == expected.size
        for field in ("boxes", "labels", "crowds", "crowd_labels", "truth"):
            np.testing.assert_array_equal(getattr(image, field), getattr(expected, field))


@pytest.mark.parametrize("path", NUMBERS)
def test_a_number_may_be_text_or_a_float(tmp_path: Path, path: str) -> None:
    good, value = read(tmp_path, GOOD), at(path)
    for spelling in (str(value), f" {value} ", float(value), f"{value}.0"):
        assert_same(read(tmp_path, changed(path, spelling)), good)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(JUNK)), min_size=1, max_size=3))
def test_any_other_value_is_refused_by_record_or_means_nothing(tmp_path: Path, changes: list[tuple[str, Any]]) -> None:
    content = copy.deepcopy(GOOD)
    for path, value in changes:
        with suppress(LookupError, TypeError):  # an earlier change removed it
            put_at(content, path, value)
    file = tmp_path / "labels.json"
    file.write_text(json.dumps(content))
    try:
        data = load_dataset(file, need_images=False)
    except DataError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 1000
    else:
        assert all(np.isfinite(image.truth).all() for image in data.images)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["images", "annotations", "categories", "id", "bbox"]), inner, max_size=5)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_read_or_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError):
        load_dataset(path, need_images=False)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}", '{"images": [{"id": 1e400}]}', "\0"])
def test_hostile_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_dataset(path, need_images=False)
    assert len(str(caught.value)) < 1000


def perfect(data: DetectionDataset) -> list[Detections]:
    """Return detections that are the objects themselves."""
    return [
        Detections(
            image.boxes,
            np.ones(len(image.boxes), np.float32),
            image.labels.astype(np.int32),
            data.class_names,
            data.category_ids,
        )
        for image in data.images
    ]


def shift_ids(content: Content) -> None:
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number  # from 0, as many exporters do


def drop_areas(content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["area"] = None


def text_ids(content: Content) -> None:
    for image in content["images"]:
        image["id"] = f"img_{image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"img_{annotation['image_id']}"


@pytest.mark.parametrize("change", [shift_ids, drop_areas, text_ids])
def test_the_metric_does_not_depend_on_ids_and_areas(
    treecrowns: Path, tmp_path: Path, change: Callable[[Content], None]
) -> None:
    content = json.loads((treecrowns / "val.json").read_text())
    expected = evaluate_detections(
        perfect(load_dataset(treecrowns / "val.json")), load_dataset(treecrowns / "val.json")
    )
    change(content)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    data = load_dataset(path, treecrowns / "images")
    result = evaluate_detections(perfect(data), data)
    assert result.metrics["AP"] == pytest.approx(1.0)
    assert result.metrics["AR100"] == pytest.approx(1.0)
    assert result.metrics["APs"] == pytest.approx(expected.metrics["APs"])
    assert result.metrics["APm"] == pytest.approx(expected.metrics["APm"])


@pytest.mark.parametrize("root", ["animals", "cat"])
def test_a_category_that_groups_the_others_is_left_out(tmp_path: Path, root: str) -> None:
    content = copy.deepcopy(GOOD)
    for category in content["categories"]:
        category["supercategory"] = root
    content["categories"].insert(0, {"id": 0, "name": root, "supercategory": "none"})
    data = read(tmp_path, content)
    assert (data.class_names, data.category_ids) == (("cat", "dog"), (1, 2))
    assert data.remarks == (
        f"labels.json: category {root} is left out: it has no boxes, and groups the other categories",
    )
    content["annotations"][0]["category_id"] = 0  # it has a box, so it is a class
    if root == "cat":
        with pytest.raises(DataError, match="each name once, got cat, cat, dog"):
            read(tmp_path, content)
    else:
        assert read(tmp_path, content).class_names == ("animals", "cat", "dog")


def test_a_category_without_boxes_stays_a_class(tmp_path: Path) -> None:
    """COCO's own person is its own supercategory, and may lack boxes in a small part."""
    content = copy.deepcopy(GOOD)
    content["categories"].append({"id": 3, "name": "person", "supercategory": "person"})
    assert read(tmp_path, content).class_names == ("cat", "dog", "person")


def test_shares_of_the_image_in_place_of_pixels_are_refused(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    for annotation in content["annotations"]:
        annotation["bbox"] = [0.2, 0.1, 0.5, 0.6]
    with pytest.raises(DataError, match=r"expected boxes in pixels, got 3 of 3 boxes within one pixel"):
        read(tmp_path, content)


def test_corners_in_place_of_a_size_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotation id 1, .* it would fit as the corners x1, y1, x2, y2"):
        read(tmp_path, changed("annotations.0.bbox", [20, 10, 38, 28]))


@pytest.mark.parametrize("name", ["images\\a.png", "C:\\data\\images\\a.png", "/home/somebody/images/a.png", "./a.png"])
def test_names_from_another_machine_are_found(tmp_path: Path, treecrowns: Path, name: str) -> None:
    source = json.loads((treecrowns / "val.json").read_text())
    real = source["images"][0]
    content = changed("images.0.file_name", name.replace("a.png", real["file_name"]))
    content["images"][0].update(width=real["width"], height=real["height"])
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    assert load_dataset(path, treecrowns / "images").images[0].read().size


@pytest.mark.parametrize("crowd", [1, "1", True])
def test_a_set_of_crowds_alone_cannot_be_learned(tmp_path: Path, treecrowns: Path, crowd: Any) -> None:
    content = json.loads((treecrowns / "val.json").read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = crowd
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="expected boxes to learn from, found none outside of crowds"):
        TrainingData(path, treecrowns / "images").load(print)


def test_two_records_of_one_image_are_refused(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["images"].append({"id": 2, "file_name": "./a.png", "width": 40, "height": 30})
    with pytest.raises(DataError, match=r"got two for a\.png \(image ids 1 and 2\); join them"):
        read(tmp_path, content)
