"""Find the annotation files and the image folders of a data set, given one path."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np

from engines.core.errors import DataError
from retina_edge.data.coco import CocoDataset

# Names of annotation files, relative to the folder of the data set; the second ones are COCO's own.
TRAIN_FILES = ("train.json", "annotations/train.json", "annotations/instances_train2017.json")
VAL_FILES = ("val.json", "valid.json", "annotations/val.json", "annotations/instances_val2017.json")
# Names of image folders, relative to the annotation file's folder or its parent.
IMAGE_FOLDERS = ("images", ".", "{part}", "images/{part}", "{part}2017")
# Share of the images that is held out for validation if there is no validation set, and the seed of the choice.
HELD_OUT, SEED = 0.2, 0


def find_annotations(path: Path, names: tuple[str, ...]) -> Path | None:
    """Return the annotation file of a data set: the path itself if it is a file, else the first name in the folder.

    Args:
        path: annotation file, or folder of the data set.
        names: ``TRAIN_FILES`` or ``VAL_FILES``.
    """
    if not path.is_dir():
        return path
    return next((path / name for name in names if (path / name).is_file()), None)


def find_training_file(path: Path) -> Path:
    """Return the annotation file to learn from.

    Raises:
        DataError: if a folder has no such file.
    """
    found = find_annotations(path, TRAIN_FILES)
    if found is None:
        raise DataError(
            f"{path}: expected COCO annotations named {TRAIN_FILES[0]} in this folder, found none; name the JSON file "
            "itself"
        )
    return found


def find_images(annotations: Path) -> Path:
    """Return the folder that holds the images of an annotation file.

    The folder is near the file, and holds the first image.

    Raises:
        DataError: if no such folder is found, or the file is not COCO JSON.
    """
    try:
        first = json.loads(annotations.read_text(encoding="utf-8-sig"))["images"][0]["file_name"]
    except (OSError, ValueError, LookupError, TypeError):
        return annotations.parent  # load_coco reports what is wrong with the file
    part = annotations.stem.removeprefix("instances_").removesuffix("2017")
    roots = [annotations.parent, annotations.parent.parent] if annotations.parent.name == "annotations" else []
    tried = []
    for root in roots or [annotations.parent]:
        for name in IMAGE_FOLDERS:
            folder = root / name.format(part=part)
            if (folder / str(first)).is_file():
                return folder
            tried.append(str(folder))
    raise DataError(
        f"{annotations}: expected {first} in one of {', '.join(tried)}, found it in none; name the folder with "
        "--images, or --val-images for validation"
    )


def hold_out(data: CocoDataset) -> tuple[CocoDataset, CocoDataset]:
    """Split a data set into a part to learn from and a part to validate on. The same data set is split the same way.

    Only images with objects are held out, and every class keeps an image to learn from. If that leaves none to hold
    out, both parts are the whole data set.

    Examples:
        >>> from retina_edge.data.coco import load_coco
        >>> train, val = hold_out(load_coco("tests/data/treecrowns/val.json", None))
        >>> len(train), len(val)
        (13, 3)
    """
    count = int(HELD_OUT * len(data))
    classes = [set(image.labels.tolist()) for image in data.images]
    left = Counter(label for labels in classes for label in labels)
    chosen: set[int] = set()
    for index in np.random.default_rng(SEED).permutation(len(data)).tolist():
        if len(chosen) < count and classes[index] and all(left[label] > 1 for label in classes[index]):
            chosen.add(index)
            left.subtract(classes[index])
    if not chosen:
        return data, data
    parts = [
        tuple(image for index, image in enumerate(data.images) if (index in chosen) == held_out)
        for held_out in (False, True)
    ]
    train, val = (dataclasses.replace(data, images=images) for images in parts)
    return train, val
