"""YOLO labels without a description, as LabelImg and Roboflow write them: images, labels and a file of class names."""

from __future__ import annotations

import codecs
import glob
import os
from itertools import islice
from pathlib import Path

from engines.core.errors import DataError
from retina_edge.data.records import as_number
from retina_edge.data.yolo_description import PARTS, YoloDescription, find_description, names_in

# Files of class names: those of LabelImg and Label Studio, of darknet and CVAT, and of Roboflow.
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")
# Folders of the images of a part, and of images without parts.
PART_FOLDERS = ("images/{part}", "{part}/images", "obj_{part}_data", "{part}")
WHOLE_FOLDERS = ("images", ".")
# Folders of images whose labels are in a folder "labels" beside them.
IMAGE_FOLDERS = ("images", "JPEGImages")
BOX_VALUES = 5  # class, x and y of the center, width, height
# Number of text files that are looked at, to find out if they are labels. Empty ones, of images without objects, do not
# count: they may be most of them.
TRIED = 50


def describe_folder(
    folder: Path, part: str, images: Path | None, *, whole: bool, names: Path | None = None
) -> YoloDescription | None:
    """Return what is known of a part of a folder without a description; None without such a part or class names.

    Args:
        folder: folder of the data set.
        part: ``train`` or ``val``.
        images: folder of the images; None to look for it.
        whole: if the folder has no parts, take all of it for ``val``.
        names: file of class names; None to look for it. LabelImg writes one into each folder of labels.

    Raises:
        DataError: if the class names cannot be read.
    """
    parts = {name: _first_folder(folder, name) for name in PARTS}
    if images is None and any(parts.values()):
        images = parts[part]
    elif images is None and (part == "train" or whole):
        images = next(folder / name for name in WHOLE_FOLDERS if (folder / name).is_dir())
    if images is None:
        return None
    names = names or _names_file(folder, images)
    if names is None:
        return None
    return YoloDescription(names, names_in(names), [str(images.absolute())], (folder,), (names,), labels=names.parent)


def find_yolo(folder: Path) -> Path | None:
    """Return the description of a folder, or else its class names if it has labels; None if it is no YOLO data set."""
    described = find_description(folder)
    if described is not None:
        return described
    folders = [*(_first_folder(folder, part) for part in PARTS), *(folder / name for name in WHOLE_FOLDERS)]
    names = (_names_file(folder, images) for images in folders if images is not None)
    found = next((path for path in names if path is not None), None)
    return found if found is not None and _find_label(folder) is not None else None


def check_names(folder: Path) -> None:
    """Refuse a folder that is no data set only because the names of its classes are not found.

    Raises:
        DataError: if the folder has YOLO labels.
    """
    label = _find_label(folder)
    if label is None:
        return
    names = next((label.with_name(name) for name in NAME_FILES if label.with_name(name).is_file()), None)
    advice = (
        f"write them one a line, in the order of their numbers, to {folder / NAME_FILES[0]}"
        if names is None
        else f"name {names} itself, and the folder of the images with --images"
    )
    raise DataError(
        f"{folder}: expected a YOLO data set with the names of its classes in data.yaml, obj.names or classes.txt, "
        f"found labels such as {label} without them; {advice}"
    )


def _find_label(folder: Path) -> Path | None:
    """Return a file with a YOLO box in a folder, or in the folders inside it; None if there is none."""
    texts = glob.iglob(f"{glob.escape(str(folder))}/**/*.txt", recursive=True)
    filled = (text for text in texts if os.path.isfile(text) and os.path.getsize(text))
    return next((path for path in map(Path, islice(filled, TRIED)) if _is_label(path)), None)


def label_paths(image: Path) -> list[Path]:
    """Return the paths where the labels of an image may be.

    Examples:
        >>> [str(path) for path in label_paths(Path("set/images/a.jpg"))]
        ['set/labels/a.txt', 'set/images/a.txt']
    """
    parts = list(image.parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part in IMAGE_FOLDERS]
    beside = image.with_suffix(".txt")
    if not folders:
        return [beside]
    parts[folders[-1]] = "labels"
    return [Path(*parts).with_suffix(".txt"), beside]


def _first_folder(folder: Path, part: str) -> Path | None:
    """Return the folder of the images of a part; None if there is none."""
    paths = (folder / place.format(part=name) for name in PARTS[part] for place in PART_FOLDERS)
    return next((path for path in paths if path.is_dir()), None)


def _names_file(folder: Path, images: Path) -> Path | None:
    """Return the class names that are nearest to the labels; None if there are none."""
    places = [*(path.parent for path in label_paths(images / "image.jpg")), folder / "labels", folder]
    paths = (place / name for place in places for name in NAME_FILES)
    return next((path for path in paths if path.is_file()), None)


def _is_label(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            values = file.readline(1000).removeprefix(codecs.BOM_UTF8).split()[:BOX_VALUES]
    except OSError:
        return False
    return len(values) == BOX_VALUES and all(as_number(value.decode(errors="replace")) is not None for value in values)
