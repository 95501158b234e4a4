"""An image or label is read under another spelling of its name if only one file can be meant."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest

from engines.core.errors import DataError
from retina_edge.data.load import listed_images, load_dataset
from retina_edge.data.near_names import NearNames

ACCENT = "Bäume 1.jpg"
# The name in the annotations, and the name of the file.
SPELLINGS = {
    "percent": (quote("tree 1.jpg"), "tree 1.jpg"),
    "percent in the file": ("tree 1.jpg", quote("tree 1.jpg")),
    "suffix": ("tree.jpg", "tree.JPG"),
    "suffix in the annotations": ("tree.JPG", "tree.jpg"),
    "Mac": (unicodedata.normalize("NFC", ACCENT), unicodedata.normalize("NFD", ACCENT)),
    "from a Mac": (unicodedata.normalize("NFD", ACCENT), unicodedata.normalize("NFC", ACCENT)),
    "all": (quote(unicodedata.normalize("NFC", ACCENT)), unicodedata.normalize("NFD", "Bäume 1.JPG")),
    "no percent": ("100%.JPG", "100%.jpg"),
}


@pytest.fixture
def formats(treecrowns: Path, sets: Path, tmp_path: Path) -> Path:
    """Data sets of the validation tiles as ``coco``, ``yolo`` with a list of images, and ``voc``."""
    folder = tmp_path / "formats"
    shutil.copytree(sets, folder)
    shutil.copytree(treecrowns, folder / "coco")
    names = sorted(file.name for file in (folder / "yolo" / "images").iterdir())
    (folder / "yolo" / "train.txt").write_text("".join(f"images/{name}\n" for name in names))
    (folder / "yolo" / "data.yaml").write_text("train: train.txt\nnames: [tree]\n")
    return folder


def renamed(formats: Path, kind: str, name: str, file: str) -> Path:
    """Give the first image of a data set another name in the annotations, and another one to its file."""
    folder = formats / kind
    image = sorted((folder / ("JPEGImages" if kind == "voc" else "images")).iterdir())[0]
    image.rename(image.with_name(file))
    if kind == "coco":
        path = folder / "val.json"
        content = json.loads(path.read_text())
        record = next(record for record in content["images"] if record["file_name"] == image.name)
        record["file_name"] = name
        path.write_text(json.dumps(content))
        return path
    if kind == "yolo":
        lines = (folder / "train.txt").read_text()
        (folder / "train.txt").write_text(lines.replace(f"images/{image.name}", f"images\\{name}"))
        label = folder / "labels" / f"{image.stem}.txt"
        label.rename(label.with_stem(name.rpartition(".")[0]))
    else:
        file_of_boxes = folder / "Annotations" / f"{image.stem}.xml"
        file_of_boxes.write_text(file_of_boxes.read_text().replace(image.name, name))
        file_of_boxes.rename(file_of_boxes.with_stem(name.rpartition(".")[0]))
    return folder


@pytest.mark.parametrize(("name", "file"), SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_an_image_under_another_spelling_is_read_and_said(formats: Path, kind: str, name: str, file: str) -> None:
    data = load_dataset(renamed(formats, kind, name, file))
    image = next(image for image in data.images if image.path.name == file)
    assert len(image.boxes)
    assert sum(len(image.boxes) for image in data.images) == 296
    if kind == "voc" and name.rpartition(".")[0] == file.rpartition(".")[0]:
        assert data.remarks == ()  # the image of the same name, whatever its suffix, is that of the XML file
    else:
        [remark] = data.remarks
        assert "read under another spelling of the name" in remark
        assert f"{file} for {name}" in remark


def test_all_images_under_another_spelling_are_found(formats: Path) -> None:
    for image in (formats / "coco" / "images").iterdir():
        image.rename(image.with_suffix(".JPG"))
    data = load_dataset(formats / "coco" / "val.json")
    assert data.remarks[0].startswith("val.json: read under another spelling of the name (16): ")
    assert listed_images(formats / "coco" / "val.json") == [image.path for image in data.images]


@pytest.mark.parametrize("kind", ["coco", "yolo", "voc"])
def test_several_files_that_can_be_meant_are_none(formats: Path, kind: str) -> None:
    path = renamed(formats, kind, "tree%201.jpg", "tree 1.jpg")
    image = next((formats / kind).rglob("tree 1.jpg"))
    shutil.copy(image, image.with_name("tree 1.JPG"))
    with pytest.raises(DataError, match=r"cannot use 1 of 16 images: tree%201.jpg.* \(the file is missing\)"):
        load_dataset(path)


def test_the_file_of_another_record_is_not_taken(formats: Path) -> None:
    path = renamed(formats, "coco", "tree.jpg", "tree.jpg")
    content = json.loads(path.read_text())
    content["images"][1]["file_name"] = "tree.JPG"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"cannot use 1 of 16 images: tree.JPG, image id \d+ \(the file is missing\)"):
        load_dataset(path)


def test_folders_may_be_spelled_differently(formats: Path) -> None:
    path = formats / "coco" / "val.json"
    content = json.loads(path.read_text())
    for record in content["images"]:
        record["file_name"] = f"flight%201/{record['file_name']}"
    path.write_text(json.dumps(content))
    (formats / "coco" / "images").rename(formats / "coco" / "flight 1")
    assert {image.path.parent.name for image in load_dataset(path).images} == {"flight 1"}


def test_percent_signs_of_another_encoding_are_no_spelling(formats: Path) -> None:
    path = renamed(formats, "coco", "b%E4um.jpg", "b%F6um.jpg")
    with pytest.raises(DataError, match=r"b%E4um.jpg, image id \d+ \(the file is missing\)"):
        load_dataset(path)


def test_a_name_that_is_too_long_is_that_of_a_missing_file(formats: Path) -> None:
    path = formats / "coco" / "val.json"
    content = json.loads(path.read_text())
    content["images"][0]["file_name"] = f"{300 * 'x'}.jpg"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"cannot use 1 of 16 images: xxx.* \(the file is missing\)"):
        load_dataset(path)


def test_a_file_that_two_records_can_mean_is_read_for_neither(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "ä.txt")).touch()
    (tmp_path / "b.TXT").touch()
    wanted = [[tmp_path / unicodedata.normalize("NFC", name)] for name in ("ä.txt", quote("ä.txt"), "b.txt")]
    near = NearNames()
    assert near.find(wanted) == [None, None, tmp_path / "b.TXT"]
    assert near.remarks(tmp_path / "data.yaml") == (
        "data.yaml: read under another spelling of the name (1): b.TXT for b.txt",
    )


def test_a_line_of_a_list_that_names_no_file_is_refused(formats: Path) -> None:
    (formats / "yolo" / "train.txt").write_text("images/a.jpg\n/\n")
    with pytest.raises(DataError, match=r"train\.txt: expected the paths of images, one a line, got .*/"):
        load_dataset(formats / "yolo")
