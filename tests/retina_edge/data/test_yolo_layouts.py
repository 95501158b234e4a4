"""YOLO data sets without ``data.yaml`` are read as LabelImg, CVAT and darknet write them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines.core.errors import DataError
from retina_edge.api.training_data import TrainingData
from retina_edge.data.load import listed_images, load_dataset
from retina_edge.data.yolo_folder import TRIED

# LabelImg writes six decimals of 400 pixels, supervision five.
TOLERANCE = 0.01


@pytest.fixture
def yolo(yolo: Path) -> Path:
    """The validation tiles in ``images`` and ``labels``, without a description."""
    (yolo / "data.yaml").unlink()
    return yolo


def into(target: Path, *folders: Path, count: int | None = None) -> None:
    """Move the first files of folders, all of them without a count."""
    target.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        for file in sorted(folder.iterdir())[:count]:
            shutil.move(file, target)


def label_img_beside(yolo: Path) -> None:
    """LabelImg without a folder for labels. Its class names begin with those that it brings."""
    into(yolo, yolo / "images", yolo / "labels")
    (yolo / "images").rmdir()
    (yolo / "classes.txt").write_text("tree\ndog\nperson\n")


def label_img_apart(yolo: Path) -> None:
    """LabelImg with a folder for labels."""
    (yolo / "labels" / "classes.txt").write_text("tree\n")


def label_img_inside(yolo: Path) -> None:
    """LabelImg with a folder for labels inside that of the images, on Windows."""
    into(yolo, yolo / "images")
    (yolo / "images").rmdir()
    (yolo / "labels" / "classes.txt").write_bytes(b"tree\r\n")


def label_studio(yolo: Path) -> None:
    (yolo / "classes.txt").write_text("tree")
    (yolo / "notes.json").write_text('{"categories": [{"id": 0, "name": "tree"}]}')


def cvat(yolo: Path) -> None:
    """CVAT's "YOLO 1.1": its paths begin with a folder that the archive does not have."""
    into(yolo / "obj_train_data", yolo / "images", yolo / "labels")
    names = sorted(file.name for file in (yolo / "obj_train_data").glob("*.jpg"))
    (yolo / "train.txt").write_text("".join(f"data/obj_train_data/{name}\n" for name in names))
    (yolo / "obj.names").write_text("tree\n")
    (yolo / "obj.data").write_text(
        "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
    )


def darknet(yolo: Path) -> None:
    """Darknet's own layout, whose paths begin at its folder; the description is not in the folder of the set."""
    into(yolo / "data" / "voc" / "JPEGImages", yolo / "images")
    into(yolo / "data" / "voc" / "labels", yolo / "labels")
    images = yolo / "data" / "voc" / "JPEGImages"
    (yolo / "data" / "voc" / "train.txt").write_text("".join(f"{file}\n" for file in sorted(images.iterdir())))
    (yolo / "data" / "voc.names").write_text("tree\n")
    (yolo / "obj.data").write_text("# comment\nclasses= 1\ntrain  = data/voc/train.txt\n\nnames = data/voc.names\n")


def roboflow(yolo: Path) -> None:
    into(yolo / "train", yolo / "images", yolo / "labels")
    (yolo / "train" / "_darknet.labels").write_text("tree\n")


@pytest.mark.parametrize(
    "arrange", [label_img_beside, label_img_apart, label_img_inside, label_studio, cvat, darknet, roboflow]
)
def test_the_boxes_are_those_of_the_coco_file(treecrowns: Path, yolo: Path, arrange: Callable[[Path], None]) -> None:
    arrange(yolo)
    data = load_dataset(yolo)
    images = {image.path.name: image for image in data.images}
    assert (data.class_names[0], data.category_ids[0], len(images)) == ("tree", 1, 16)
    assert data.remarks == ()
    for expected in load_dataset(treecrowns / "val.json").images:
        boxes = images[expected.path.name].boxes
        assert boxes.shape == expected.boxes.shape
        assert np.abs(boxes[:, None] - expected.boxes[None]).max(axis=2).min(axis=1).max(initial=0) <= TOLERANCE
    train, val = TrainingData(yolo).load(lambda _line: None)
    assert (len(train), len(val)) == (13, 3)


@pytest.mark.parametrize("name", ["obj.data", "obj.names"])
def test_the_description_itself_can_be_named(yolo: Path, name: str) -> None:
    cvat(yolo)
    assert len(load_dataset(yolo / name)) == len(listed_images(yolo / name)) == 16


@pytest.mark.parametrize("images", ["pictures", "pictures/sub"])
def test_labels_that_cvat_exports_without_images_find_them_elsewhere(yolo: Path, tmp_path: Path, images: str) -> None:
    cvat(yolo)
    (tmp_path / images).mkdir(parents=True)
    for file in (yolo / "obj_train_data").glob("*.jpg"):
        shutil.move(file, tmp_path / images)
    shutil.copy(sorted((tmp_path / images).iterdir())[0], tmp_path / images / "of_another_task.jpg")
    data = load_dataset(yolo, tmp_path / images)
    assert (len(data), sum(len(image.boxes) for image in data.images)) == (16, 296)


def test_relative_paths_are_read(yolo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cvat(yolo)
    monkeypatch.chdir(yolo)
    names = [f"{file.name}\n" for file in sorted(Path("obj_train_data").glob("*.jpg"))]
    Path("train.txt").write_text("".join(names))
    into(yolo, yolo / "obj_train_data")
    for images in (None, ".", yolo):
        assert len(load_dataset("obj.data", images)) == 16


def test_labels_in_a_folder_of_another_name_are_found_by_their_class_names(yolo: Path) -> None:
    label_img_apart(yolo)
    (yolo / "labels").rename(yolo / "saved")
    with pytest.raises(DataError, match=r"name .*saved/classes.txt itself, and the folder of the images"):
        load_dataset(yolo)
    assert (
        sum(len(image.boxes) for image in load_dataset(yolo / "saved" / "classes.txt", yolo / "images").images) == 296
    )


def test_the_class_names_beside_the_labels_of_a_part_count(yolo: Path) -> None:
    for part, count in (("train", 12), ("val", 4)):
        into(yolo / part / "images", yolo / "images", count=count)
        into(yolo / part / "labels", yolo / "labels", count=count)
    (yolo / "train" / "labels" / "classes.txt").write_text("tree\nrock\n")
    (yolo / "val" / "labels" / "classes.txt").write_text("tree\n")
    train, val = TrainingData(yolo).load(lambda line: pytest.fail(line))
    assert (len(train), train.class_names) == (12, ("tree", "rock"))
    assert (len(val), val.class_names) == (4, ("tree",))


def test_a_set_without_parts_can_be_measured_on(yolo: Path) -> None:
    label_studio(yolo)
    assert len(load_dataset(yolo, part="val")) == 16


def test_labels_are_found_among_many_empty_ones(yolo: Path) -> None:
    label_img_apart(yolo)
    for number in range(2 * TRIED):
        (yolo / "labels" / f"empty_{number}.txt").touch()
    *others, last = (yolo / "labels" / name for name in os.listdir(yolo / "labels") if name != "classes.txt")
    for file in others:
        file.write_text("")
    last.write_text("\ufeff0 0.5 0.5 0.1 0.1\n")  # of a program on Windows
    shutil.copy(next((yolo / "images").iterdir()), yolo / "images" / f"{last.stem}.jpg")
    assert sum(len(image.boxes) for image in load_dataset(yolo).images) == 1


@pytest.mark.skipif(os.name == "nt", reason="a backslash separates folders on Windows")
def test_a_backslash_may_be_part_of_a_name(yolo: Path) -> None:
    label_img_apart(yolo)
    moved = yolo.rename(yolo.with_name("tiles\\1"))
    assert len(load_dataset(moved)) == len(load_dataset(moved, moved / "images")) == 16


def test_labels_without_class_names_are_refused(yolo: Path) -> None:
    with pytest.raises(DataError, match=r"names of its classes .* found labels such as .*; write them one a line"):
        load_dataset(yolo)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("obj.names", "", "obj.names: expected the names of the classes, one a line, got an empty file"),
        ("obj.names", "rock\n\ntree\n", "obj.names: line 2: name: expected text"),
        ("obj.names", "tree\ntree\n", "obj.names: expected each name once"),
        ("obj.names", b"b\xe4um\n", "obj.names: expected text in UTF-8"),
        ("obj.data", "train: train.txt\n", "obj.data: line 1: expected a line such as train = data/train.txt"),
        ("obj.data", "train = train.txt\n", "obj.data: names: expected the path of a file, got null"),
        ("obj.data", "names = none.names\n", r"names: expected the path of a file, got .*; looked for .*none.names"),
        ("obj.data", "names = obj.names\ntrain = none.txt\n", r"obj.data: expected the images in .*none.txt"),
        ("obj.data", "names = obj.names\nvalid = train.txt\n", "found no part to learn from"),
        ("obj.data", f"names = {300 * 'x'}", r"obj.data: names: expected the path of a file"),
        ("obj.data", f"names = obj.names\ntrain = {300 * 'x'}\n", r"obj.data: expected the images in .*xxx"),
        ("train.txt", f"{300 * 'x'}.jpg\n", r"expected images such as .*xxx.jpg, found none of 1; name"),
        ("train.txt", "data/obj_train_data/none.jpg\n", "expected images such as .*none.jpg, found none of 1; name"),
    ],
)
def test_what_is_wrong_in_a_description_is_named(yolo: Path, name: str, text: str | bytes, message: str) -> None:
    cvat(yolo)
    (yolo / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        load_dataset(yolo)


def test_an_unknown_class_names_the_file_of_class_names(yolo: Path) -> None:
    label_img_apart(yolo)
    sorted((yolo / "labels").iterdir())[1].write_text("1 0.5 0.5 0.1 0.1\n")
    with pytest.raises(DataError, match=r"line 1: class 1 is unknown .* the names in .*classes.txt"):
        load_dataset(yolo)
