"""Pascal VOC data sets: an XML file for each image, whose objects supervision parses.

Source of the format: Everingham et al., The Pascal Visual Object Classes Challenge 2012 Development Kit, section 4.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from engines.core.errors import DataError
from retina_edge.data.near_names import NearNames
from retina_edge.data.records import (
    BoxRecord,
    ImageRecord,
    Records,
    as_flag,
    as_number,
    as_whole,
    needs_supervision,
    shown,
)
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.system.natural_order import natural_order

# Names of the folders, relative to the folder of the data set.
ANNOTATION_FOLDERS, IMAGE_FOLDERS = ("Annotations", "annotations", "."), ("JPEGImages", "images", ".")
# Names of the folders of a part, and of the file that lists its images.
PART_FOLDERS = {"train": ("train",), "val": ("valid", "val", "test")}
LISTS = {"train": ("train.txt", "trainval.txt"), "val": ("val.txt", "test.txt")}

CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Number of XML files that are looked at, to find out if they are annotations, and of bytes of each.
TRIED, START = 50, 1000


def find_voc(folder: Path, part: str, *, whole: bool) -> tuple[Path, list[Path]] | None:
    """Return the folder and the XML files of a part of a data set; None if there are none.

    Args:
        folder: folder of the data set.
        part: ``train`` or ``val``.
        whole: take all files for ``val`` if the data set has no parts.
    """
    for root in (*(folder / name for name in PART_FOLDERS[part]), folder):
        files = _xml_files(root)
        if not files:
            continue
        if root != folder:
            return root, files
        lists = [root / "ImageSets" / "Main" / name for name in LISTS[part]]
        listed = next((path for path in lists if path.is_file()), None)
        if listed is not None:
            return root, _listed(listed, files)
        return (root, files) if part == "train" or (whole and not _has_parts(root)) else None
    return None


def find_annotation(folder: Path) -> Path | None:
    """Return an annotation of Pascal VOC in a folder, of any part; None if there is none among the XML files."""
    roots = [folder / name for names in PART_FOLDERS.values() for name in names]
    files = (file for root in (folder, *roots) for file in islice(_xml_files(root), TRIED))
    return next((file for file in files if _is_annotation(file)), None)


def _is_annotation(file: Path) -> bool:
    try:
        with file.open("rb") as content:
            return re.search(rb"<annotation[\s>]", content.read(START)) is not None
    except OSError:
        return False


def _has_parts(folder: Path) -> bool:
    """True if a data set has lists or folders for its parts, so that another part is meant by their absence."""
    names = {name for part in ("train", "val") for name in PART_FOLDERS[part]}
    lists = {name for part in ("train", "val") for name in LISTS[part]}
    return any(_xml_files(folder / name) for name in names) or any(
        (folder / "ImageSets" / "Main" / name).is_file() for name in lists
    )


def _listed(path: Path, files: Sequence[Path]) -> list[Path]:
    """Return the files that a list names, by their stems; lists of one class add a mark: 1, 0 or -1."""
    by_stem = {file.stem: file for file in files}
    found, missing = [], []
    for line in (line.strip() for line in path.read_text("utf-8-sig", "replace").splitlines()):
        stem = line if line in by_stem else re.sub(r"\s+(-?1|0)$", "", line)
        if stem in by_stem:
            found.append(by_stem[stem])
        elif stem:
            missing.append(stem)
    if missing:
        raise DataError(
            f"{path}: expected an XML file for each name, found none for {len(missing)}: {', '.join(missing[:10])}; "
            "correct the list"
        )
    return found


def read_voc(folder: Path, files: Sequence[Path], images: Path | None) -> Records:
    """Read the records of Pascal VOC files. Objects that are marked as difficult count as crowds.

    Args:
        folder: folder of the data set.
        files: the XML files.
        images: folder of the images; None to look for it.

    Raises:
        DataError: if a file is damaged; the message names the file, the object and the field.
        MissingDependencyError: if supervision is not installed.
    """
    with needs_supervision("Pascal VOC"):
        from defusedxml import ElementTree
        from supervision.dataset.formats.pascal_voc import detections_from_xml_obj
    names: list[str] = []
    sizes, boxes, wanted = [], [], []
    for index, file in enumerate(files):
        try:
            root = ElementTree.parse(file).getroot()
        except (OSError, SyntaxError, ValueError, LookupError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{file}: expected a Pascal VOC annotation, cannot read it: {reason}") from error
        if root.tag != "annotation":
            raise DataError(f"{file}: expected a Pascal VOC annotation, got an XML file with <{root.tag}>")
        wanted.append(_image_files(folder, file, images, root))
        sizes.append(_size(root))
        objects = [_object(file, number, element) for number, element in enumerate(root.findall("object"), 1)]
        detections, names = detections_from_xml_obj(root, names, (1, 1))
        for (where, crowd), label, (x1, y1, x2, y2) in zip(
            objects, detections.class_id.tolist(), detections.xyxy.tolist(), strict=True
        ):
            boxes.append(BoxRecord(f"{file.name} {where}", index, label, (x1, y1, x2 - x1, y2 - y1), crowd=crowd))
    if not boxes:
        raise DataError(
            f"{folder}: expected objects in the XML files, found none; there is nothing to learn or measure"
        )
    order = sorted(names)
    new_labels = [order.index(name) for name in names]
    ordered = tuple(box._replace(label=new_labels[box.label]) for box in boxes)
    near = NearNames()
    found = [image or paths[0] for image, paths in zip(near.find(wanted), wanted, strict=True)]
    return Records(
        folder,
        tuple(order),
        tuple(range(1, len(order) + 1)),
        tuple(ImageRecord(file.stem, image, size) for file, image, size in zip(files, found, sizes, strict=True)),
        ordered,
        tuple(files),
        remarks=near.remarks(folder),
    )


def _object(file: Path, number: int, element: Any) -> tuple[str, bool]:
    """Check an object. Return its name in messages, and True for a crowd."""
    where, name = f"object {number}", element.findtext("name", "").strip()
    if not name:
        raise DataError(
            f"{file}: {where}: name: expected the name of a class, found none; write it, or remove the object"
        )
    element.find("name").text = name  # without the space around it, which would make another class
    where = f"{where} ({shown(name)})"
    box = element.find("bndbox")
    for corner in CORNERS:
        text = None if box is None else box.findtext(corner)
        if as_number(text) is None:
            got = "found none" if text is None else f"got {shown(text)}"
            raise DataError(
                f"{file}: {where}: bndbox: {corner}: expected a number of pixels, {got}; correct the object"
            )
    difficult = (element.findtext("difficult") or "0").strip()
    crowd = False if difficult == "Unspecified" else as_flag(difficult)
    if crowd is None:
        raise DataError(f"{file}: {where}: difficult: expected 0 or 1, got {shown(difficult)}; correct the object")
    for polygon in element.findall("polygon"):  # only boxes are used
        element.remove(polygon)
    return where, crowd


def _xml_files(root: Path) -> list[Path]:
    """Return the XML files of a folder, also in folders inside it; not the hidden copies that a Mac makes."""
    folders = [root / name for name in ANNOTATION_FOLDERS if name != "."]
    within = next((folder for folder in folders if folder.is_dir()), None)
    files = within.rglob("*.xml") if within else root.glob("*.xml")
    return sorted((file for file in files if not file.name.startswith(".")), key=natural_order)


def _image_files(folder: Path, file: Path, images: Path | None, root: Any) -> list[Path]:
    """Return the image of an annotation: the one of the same stem, or else the paths of the file that it names.

    The name inside is often that of before a file was renamed or copied.
    """
    name = Path(root.findtext("filename", "").strip().replace("\\", "/")).name or f"{file.stem}.jpg"
    folders = [images] if images is not None else [*(folder / name for name in IMAGE_FOLDERS), file.parent]
    for candidate in folders:
        for suffix in sorted(IMAGE_SUFFIXES):
            for path in (candidate / f"{file.stem}{suffix}", candidate / f"{file.stem}{suffix.upper()}"):
                if os.path.isfile(path):  # Path.is_file raises an error for a name that is too long
                    return [path]
    names = (name, f"{file.stem}{Path(name).suffix}")
    return [candidate / name for name in names for candidate in folders]


def _size(root: Any) -> tuple[int, int] | None:
    """Return (height, width); None if the file does not know them: some tools write 0."""
    height, width = (as_whole(root.findtext(f"size/{side}", "")) for side in ("height", "width"))
    return (height, width) if height and width and height > 0 and width > 0 else None
