"""YOLO and Pascal VOC data sets, written by supervision, are read like the COCO file that they were made from."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.core.errors import DataError, MissingDependencyError
from retina_edge.api.calibration import CalibrationOptions, load_calibration
from retina_edge.api.training_data import TrainingData
from retina_edge.data.load import load_dataset

# YOLO's five decimals of 400 pixels, and the whole pixels of Pascal VOC.
TOLERANCES = {"yolo": 0.01, "voc": 1.0}


def sorted_boxes(boxes: Any) -> Any:
    return boxes[np.lexsort(np.round(boxes, 0).T)]


@pytest.mark.parametrize("kind", TOLERANCES)
def test_the_boxes_are_those_of_the_coco_file(sets: Path, treecrowns: Path, kind: str) -> None:
    expected = load_dataset(treecrowns / "val.json")
    data = load_dataset(sets / kind)
    assert (data.class_names, data.category_ids, len(data)) == (("tree",), (1,), 16)
    images = {image.path.name: image for image in data.images}
    for image in expected.images:
        read = images[image.path.name]
        assert read.size == image.size
        assert read.boxes.shape == image.boxes.shape
        distances = np.abs(read.boxes[:, None] - image.boxes[None]).max(axis=2)
        assert distances.min(axis=1).max() <= TOLERANCES[kind]
        assert distances.min(axis=0).max() <= TOLERANCES[kind]
        areas = np.sort(read.truth[:, 2] * read.truth[:, 3])
        assert np.allclose(np.sort(read.truth[:, 4]), areas)


@pytest.mark.parametrize("kind", TOLERANCES)
def test_a_set_without_a_second_part_holds_images_out(sets: Path, kind: str) -> None:
    train, val = TrainingData(sets / kind).load(lambda _line: None)
    assert (len(train), len(val)) == (13, 3)


def test_the_images_of_a_description_calibrate(sets: Path) -> None:
    options = CalibrationOptions(sets / "yolo" / "data.yaml", cache=None)
    calibration = load_calibration(
        options, precision="int8", source_precision="fp32", layout="cpu", progress=lambda _done, _count: None
    )
    assert calibration is not None
    assert len(calibration.images.paths) == 16


def test_both_parts_of_a_yolo_set_are_found(yolo: Path) -> None:
    """Roboflow's layout: a folder for each part, and paths that begin one folder too high."""
    for part, images in (("train", 12), ("valid", 4)):
        for kind in ("images", "labels"):
            (yolo / part / kind).mkdir(parents=True)
            for file in sorted((yolo / kind).iterdir())[:images]:
                shutil.move(file, yolo / part / kind)
    (yolo / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: {1: rock, 0: tree}\n")
    train, val = TrainingData(yolo / "data.yaml").load(lambda line: pytest.fail(line))
    assert (len(train), len(val), train.class_names) == (12, 4, ("tree", "rock"))
    assert load_dataset(yolo, part="val").images[0].path == val.images[0].path


def test_a_list_of_images_labels_beside_them_and_polygons_are_read(yolo: Path) -> None:
    image = sorted((yolo / "images").iterdir())[0]
    shutil.rmtree(yolo / "labels")
    image.with_suffix(".txt").write_text("0 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.3 0.1 0.3 0.2\n")
    (yolo / "train.txt").write_text(f"images/{image.name}\n")
    (yolo / "data.yaml").write_text("path: .\ntrain: train.txt\nnames: [tree]\n")
    data = load_dataset(yolo)
    assert data.images[0].boxes == pytest.approx(np.array([[150, 100, 250, 300], [40, 40, 120, 80]]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.2", "expected at least 5 tokens"),
        ("0 0.5 0.5 0.2 x", "could not convert string to float"),
        ("tree 0.5 0.5 0.2 0.2", "Invalid class id 'tree'"),
        ("0 0.5 0.5 nan 0.2", "finite"),
        ("1 0.5 0.5 0.2 0.2", "line 2: class 1 is unknown"),
        ("-1 0.5 0.5 0.2 0.2", "line 2: class -1 is unknown"),
        ("0 0.5 0.5 0 0.2", "line 2, image .* has no area"),
        ("0 0.95 0.5 0.2 0.2", "line 2, image .* reaches 20 pixels outside"),
        (
            "0 200 200 40 40",
            r"expected shares .* \[180.0, 180.0, 40.0, 40.0\] in .* line 2; if these are pixels",
        ),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(yolo: Path, line: str, message: str) -> None:
    label = sorted((yolo / "labels").iterdir())[0]
    label.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(yolo)
    assert label.name in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "expected the YAML of a YOLO data set"),
        ("names: [tree", "cannot parse it"),
        ("train: images", "names: expected a list of class names, .* got null"),
        ("train: images\nnames: {0: tree, 2: rock}", "names: expected a list"),
        ("train: images\nnames: [tree, tree]", "expected each name once"),
        ("train: nowhere\nnames: [tree]", "expected the images in .*nowhere"),
        ("train: [3]\nnames: [tree]", "expected paths, got 3"),
        ("train: images\nnames: [tree]\nkpt_shape: 3", "kpt_shape"),
        ("val: images\nnames: [tree]", "found no part to learn from"),
    ],
)
def test_a_bad_description_is_refused(yolo: Path, text: str, message: str) -> None:
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_dataset(yolo)


@pytest.mark.parametrize(
    ("kind", "name", "package"),
    [
        ("yolo", "YOLO", "yaml"),
        ("yolo", "YOLO", "supervision.dataset.formats"),
        ("voc", "Pascal VOC", "defusedxml"),
        ("voc", "Pascal VOC", "supervision.dataset.formats"),
    ],
)
def test_a_missing_package_is_named_with_what_installs_it(
    sets: Path, kind: str, name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [module for module in sys.modules if module.startswith(package)]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"a {name} data set needs supervision .* 'retina-edge\[train\]'"):
        load_dataset(sets / kind)


def test_key_points_are_not_taken_for_a_polygon(yolo: Path) -> None:
    label = sorted((yolo / "labels").iterdir())[0]
    label.write_text("0 0.5 0.5 0.2 0.2 0.1 0.1 2 0.9 0.9 2\n")
    (yolo / "data.yaml").write_text("train: images\nnames: [tree]\nkpt_shape: [2, 3]\n")
    image = next(image for image in load_dataset(yolo).images if image.path.stem == label.stem)
    assert image.boxes == pytest.approx(np.array([[160, 160, 240, 240]]))


def test_yolo_boxes_count_in_the_upright_picture(yolo: Path) -> None:
    image = sorted((yolo / "images").iterdir())[0]
    orientation = Image.Exif()
    orientation[0x0112] = 6
    Image.fromarray(np.zeros((100, 200, 3), np.uint8)).save(image, exif=orientation)
    (yolo / "labels" / f"{image.stem}.txt").write_text("0 0.5 0.25 1 0.5\n")
    data = load_dataset(yolo)
    assert data.images[0].size == (200, 100)
    assert data.images[0].boxes.tolist() == [[0, 0, 100, 100]]


def xml(*objects: str, size: str = "<size><width>400</width><height>400</height></size>") -> str:
    """Return a Pascal VOC annotation."""
    return f"<annotation><filename>none.jpg</filename>{size}{''.join(objects)}</annotation>"


def voc_object(name: str, corners: tuple[object, ...], more: str = "") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def test_voc_counts_from_one_and_difficult_objects_are_crowds(voc: Path) -> None:
    file = sorted((voc / "Annotations").iterdir())[0]
    file.write_text(
        xml(
            voc_object("rock", (1, 1, 400, 400)),
            voc_object("tree", (11, 21, 30, 50), "<difficult>1</difficult>"),
        )
    )
    data = load_dataset(voc)
    assert data.class_names == ("rock", "tree")
    first = next(image for image in data.images if image.path.stem == file.stem)
    assert (first.boxes.tolist(), first.labels.tolist()) == ([[0, 0, 400, 400]], [0])
    assert (first.crowds.tolist(), first.crowd_labels.tolist()) == ([[10, 20, 30, 50]], [1])


ROCK = voc_object("rock", (1, 1, 9, 9))


def test_a_polygon_of_a_voc_object_is_not_needed(voc: Path) -> None:
    file = sorted((voc / "Annotations").iterdir())[0]
    file.write_text(xml(voc_object("tree", (11, 21, 30, 50), "<polygon><x1>1</x1></polygon>")))
    first = next(image for image in load_dataset(voc).images if image.path.stem == file.stem)
    assert first.boxes.tolist() == [[10, 20, 30, 50]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "cannot read it: no element found"),
        ("<html></html>", "got an XML file with <html>"),
        (xml(ROCK, "<object><name>tree</name></object>"), r'object 2 \("tree"\): bndbox: xmin: .* found none'),
        (xml(ROCK, voc_object("tree", (1, 1, 2, "a"))), r'object 2 \("tree"\): bndbox: ymax: .* number .* got "a"'),
        (xml(ROCK, voc_object("tree", (1, "", 2, 3))), r'object 2 \("tree"\): bndbox: ymin: .* got ""'),
        (xml(ROCK, voc_object("tree", (1, 1, "inf", 3))), r'object 2 \("tree"\): bndbox: xmax: .* got "inf"'),
        (xml(ROCK, voc_object(" ", (1, 1, 9, 9))), "object 2: name: expected the name of a class, found none"),
        (xml(ROCK, voc_object("tree", (1, 1, 450, 20))), r'object 2 \("tree"\), image .* reaches 50 pixels outside'),
        (
            xml(voc_object("tree", (1, 1, 9, 9), "<difficult>x</difficult>")),
            r'object 1 \("tree"\): difficult: .* got "x"',
        ),
        (xml(size="<size><width>40</width><height>400</height></size>"), "the record says 40x400"),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + xml(), "EntitiesForbidden"),
    ],
)
def test_a_bad_xml_file_is_refused(voc: Path, text: str, message: str) -> None:
    file = sorted((voc / "Annotations").iterdir())[0]
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(voc)
    assert file.stem in str(caught.value)


def test_the_lists_of_a_voc_set_name_its_parts(voc: Path) -> None:
    stems = [file.stem for file in sorted((voc / "Annotations").iterdir())]
    lists = voc / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes("".join(f"{stem}\r\n" for stem in stems[:10]).encode("utf-8-sig"))
    (lists / "val.txt").write_text("\n".join(f"{stem}  1" for stem in stems[10:]) + "\n")
    train, val = TrainingData(voc).load(lambda line: pytest.fail(line))
    assert (len(train), len(val)) == (10, 6)


def test_a_set_whose_images_are_missing_is_refused(voc: Path, yolo: Path) -> None:
    shutil.rmtree(voc / "JPEGImages")
    with pytest.raises(DataError, match="cannot use 16 of 16 images"):
        load_dataset(voc)
    shutil.rmtree(yolo / "labels")
    with pytest.raises(DataError, match=r"expected labels, for instance .*labels"):
        load_dataset(yolo)


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_a_folder_of_images_that_does_not_exist_is_named(sets: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"none: expected the folder with the images of .*; correct the path"):
        load_dataset(sets / kind, sets / "none")


def test_space_around_a_class_name_makes_no_other_class(voc: Path) -> None:
    first = sorted((voc / "Annotations").iterdir())[0]
    first.write_text(first.read_text().replace("<name>tree</name>", "<name>\n tree\n</name>", 1))
    assert load_dataset(voc).class_names == ("tree",)


def test_a_voc_file_of_the_longest_name_finds_its_image(voc: Path) -> None:
    first = sorted((voc / "Annotations").iterdir())[0]
    first.rename(first.with_name(f"{251 * 'x'}.xml"))
    assert len(load_dataset(voc)) == 16


def test_the_image_of_the_same_name_counts_before_a_stale_one(voc: Path) -> None:
    first, second = sorted((voc / "Annotations").iterdir())[:2]
    second.write_text(second.read_text().replace(second.stem, first.stem))
    names = [image.path.stem for image in load_dataset(voc).images]
    assert names.count(first.stem) == names.count(second.stem) == 1


def test_names_with_spaces_and_missing_ones_in_a_list(voc: Path) -> None:
    for kind in ("Annotations", "JPEGImages"):
        file = sorted((voc / kind).iterdir())[0]
        file.rename(file.with_name(f"img 1{file.suffix}"))
    stem = sorted((voc / "Annotations").iterdir())[1].stem
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "train.txt").write_text(f"img 1\n{stem} -1\n")
    assert len(load_dataset(voc).images) == 2
    (voc / "ImageSets" / "Main" / "train.txt").write_text("img 1\ngone\n")
    with pytest.raises(DataError, match="expected an XML file for each name, found none for 1: gone"):
        load_dataset(voc)


def test_a_set_without_parts_can_be_measured_on(voc: Path) -> None:
    assert len(load_dataset(voc, part="val")) == 16
    train, val = TrainingData(voc, val=voc).load(lambda _line: None)
    assert len(train) == len(val) == 16


def test_hidden_copies_of_a_mac_are_passed_over(voc: Path, yolo: Path) -> None:
    (voc / "Annotations" / "._a.xml").write_bytes(b"\0\5\x16\7")
    (yolo / "images" / "._a.jpg").write_bytes(b"\0\5\x16\7")
    (yolo / "images" / "folder.jpg").mkdir()
    assert len(load_dataset(voc)) == len(load_dataset(yolo)) == 16


def test_what_yolo_passes_over_is_said(yolo: Path) -> None:
    labels = sorted((yolo / "labels").iterdir())
    labels[0].rename(labels[0].with_name("other.txt"))
    linked = yolo.parent / "elsewhere"
    linked.mkdir()
    shutil.move(sorted((yolo / "images").iterdir())[5], linked)
    (yolo / "images" / "linked").symlink_to(linked)
    (yolo / "labels" / "linked").mkdir()
    shutil.move(labels[5], yolo / "labels" / "linked")
    data = load_dataset(yolo)
    assert len(data) == 16
    assert data.remarks == (
        "data.yaml: 1 of 16 images have no file of labels, so no objects",
        "data.yaml: 1 files of labels have no image and are not used: other.txt",
    )


def test_an_image_that_is_listed_twice_counts_once(yolo: Path) -> None:
    image = sorted((yolo / "images").iterdir())[0]
    (yolo / "train.txt").write_text(f"images\\{image.name}\nimages/{image.name}\n")
    (yolo / "data.yaml").write_text("train: train.txt\nnames: [tree]\n")
    assert len(load_dataset(yolo)) == 1


def test_values_that_yaml_changes_are_refused(yolo: Path) -> None:
    (yolo / "data.yaml").write_text("train: images\nnames: [yes, no]\n")
    with pytest.raises(DataError, match="names: name: expected text, got true; write it in quotes"):
        load_dataset(yolo)


@pytest.mark.parametrize(
    ("line", "shape"), [("0 0.5 0.5 0.2 0.2 0.4 0.4 0.6", None), ("0 0.5 0.5 0.2 0.2 0.4 0.4 2", "[2, 2]")]
)
def test_key_points_that_fit_nothing_are_refused(yolo: Path, line: str, shape: str | None) -> None:
    sorted((yolo / "labels").iterdir())[0].write_text(f"{line}\n")
    (yolo / "data.yaml").write_text(f"train: images\nnames: [tree]\n{f'kpt_shape: {shape}' if shape else ''}\n")
    with pytest.raises(DataError, match=r"line 1: expected .* got 8"):
        load_dataset(yolo)
