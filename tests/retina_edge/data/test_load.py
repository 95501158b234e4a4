"""A data set is found from one path: its annotation files, its images, and a part to validate on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from engines.core.errors import DataError
from retina_edge.api.training_data import TrainingData
from retina_edge.data.hold_out import hold_out
from retina_edge.data.load import load_dataset


def copy_set(treecrowns: Path, annotations: Path, images: Path) -> Path:
    annotations.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(treecrowns / "val.json", annotations)
    shutil.copytree(treecrowns / "images", images, dirs_exist_ok=True)
    return annotations


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("train.json", "images"),
        ("train.json", "."),
        ("train.json", "train"),
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/train.json", "images/train"),
        ("annotations/instances_train.json", "images/train"),
    ],
)
def test_images_are_found_near_the_annotations(treecrowns: Path, tmp_path: Path, annotations: str, images: str) -> None:
    path = copy_set(treecrowns, tmp_path / annotations, tmp_path / images)
    assert load_dataset(path).images[0].path.parent.resolve() == (tmp_path / images).resolve()
    messages: list[str] = []
    train, val = TrainingData(tmp_path).load(messages.append)
    assert (len(train), len(val)) == (13, 3)
    assert messages == ["no validation set was given: 3 of 16 images are held out of training to validate on"]


def test_a_folder_with_both_files_needs_nothing_else(treecrowns: Path, tmp_path: Path) -> None:
    copy_set(treecrowns, tmp_path / "train.json", tmp_path / "images")
    shutil.copy(treecrowns / "val.json", tmp_path / "val.json")
    train, val = TrainingData(tmp_path).load(lambda line: pytest.fail(line))
    assert (len(train), len(val)) == (16, 16)
    assert val.annotations.name == "val.json"


def test_what_is_not_found_is_named(treecrowns: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a COCO file .*, found no part to learn from"):
        TrainingData(tmp_path).load(print)
    shutil.copy(treecrowns / "val.json", tmp_path / "train.json")
    with pytest.raises(DataError, match=r"found none; name the folder with --images"):
        TrainingData(tmp_path).load(print)
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(DataError, match="cannot be parsed"):
        TrainingData(tmp_path).load(print)


def test_the_held_out_part_is_the_same_each_time_and_not_learned(treecrowns: Path) -> None:
    data = load_dataset(treecrowns / "val.json", None)
    train, val = hold_out(data)
    names = [image.id for image in train.images], [image.id for image in val.images]
    assert sorted(names[0] + names[1]) == sorted(image.id for image in data.images)
    assert [image.id for image in hold_out(data)[1].images] == names[1]


def test_every_class_keeps_an_image_to_learn_from_and_images_without_objects_are_not_held_out(
    treecrowns: Path,
) -> None:
    data = load_dataset(treecrowns / "val.json", None)
    images = list(data.images)
    rare = dataclasses.replace(images[0], labels=np.ones_like(images[0].labels))
    empty = [dataclasses.replace(image, boxes=image.boxes[:0], labels=image.labels[:0]) for image in images[1:8]]
    two = dataclasses.replace(
        data, class_names=("tree", "bush"), category_ids=(1, 2), images=(rare, *empty, *images[8:])
    )
    train, val = hold_out(two)
    assert rare.id in [image.id for image in train.images]
    assert all(len(image.boxes) for image in val.images)
    assert len(val) == 3


def test_a_few_images_are_both_learned_and_validated_on_and_said_so(treecrowns: Path, tmp_path: Path) -> None:
    content = json.loads((treecrowns / "val.json").read_text())
    content["images"] = content["images"][:4]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    path = tmp_path / "few.json"
    path.write_text(json.dumps(content))
    messages: list[str] = []
    train, val = TrainingData(path, treecrowns / "images").load(messages.append)
    assert train is val
    assert "AP says nothing about other images" in messages[0]
