"""A folder holds a data set of one format; two formats are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engines.core.errors import DataError
from retina_edge.api.training_data import TrainingData
from retina_edge.data.load import load_dataset


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ("coco", "voc", r"COCO \(train.json\) and Pascal VOC \(Annotations/.*xml\)"),
        ("coco", "yolo", r"COCO \(train.json\) and YOLO \(data.yaml\)"),
        ("yolo", "voc", r"YOLO \(data.yaml\) and Pascal VOC \(Annotations/.*xml\)"),
    ],
)
@pytest.mark.parametrize("part", ["train", "val"])
def test_two_formats_in_a_folder_are_refused(
    sets: Path, treecrowns: Path, tmp_path: Path, first: str, second: str, found: str, part: str
) -> None:
    for kind in (first, second):
        if kind == "coco":
            shutil.copy(treecrowns / "val.json", tmp_path / "train.json")
        else:
            shutil.copytree(sets / kind, tmp_path, dirs_exist_ok=True)
    with pytest.raises(DataError, match=f"expected a data set of one format, found {found}; name the file"):
        load_dataset(tmp_path, part=part)


def test_parts_in_two_formats_are_refused_and_can_be_named(voc: Path, treecrowns: Path) -> None:
    shutil.copy(treecrowns / "val.json", voc / "train.json")
    (voc / "valid").mkdir()
    for folder in ("JPEGImages", "Annotations"):
        for file in sorted((voc / folder).iterdir())[:4]:
            shutil.copy(file, voc / "valid")
    (voc / "JPEGImages").rename(voc / "images")
    shutil.rmtree(voc / "Annotations")
    with pytest.raises(DataError, match=r"COCO \(train.json\) and Pascal VOC \(valid/.*xml\)"):
        TrainingData(voc).load(lambda _line: None)
    train, val = TrainingData(voc / "train.json", val=voc / "valid").load(lambda line: pytest.fail(line))
    assert (len(train), len(val)) == (16, 4)


def test_labels_of_both_formats_of_label_img_are_refused(voc: Path) -> None:
    stem = sorted((voc / "Annotations").iterdir())[0].stem
    (voc / "Annotations" / "classes.txt").write_text("tree\n")
    assert len(load_dataset(voc)) == 16  # names without labels are no data set
    (voc / "labels").mkdir()
    (voc / "labels" / "classes.txt").write_text("tree\n")
    (voc / "labels" / f"{stem}.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"YOLO \(labels/classes.txt\) and Pascal VOC"):
        load_dataset(voc)


def test_xml_files_that_are_no_annotations_are_no_format(treecrowns: Path, tmp_path: Path) -> None:
    """GDAL writes its statistics beside an image, and CVAT has a format of its own."""
    shutil.copytree(treecrowns / "images", tmp_path / "train")
    shutil.copy(treecrowns / "val.json", tmp_path / "train" / "_annotations.coco.json")
    image = sorted((tmp_path / "train").iterdir())[1]
    image.with_name(f"{image.name}.aux.xml").write_text("<PAMDataset>\n</PAMDataset>\n")
    (tmp_path / "annotations.xml").write_text('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n</annotations>\n')
    assert len(load_dataset(tmp_path)) == 16
