"""COCO JSON files: a data set is read and checked as a whole, so that defects are reported before training begins."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.errors import DataError
from retina_edge.imaging.image_file import read_image

# Annotation tools round differently: a box that reaches this many pixels outside the image is clipped, not refused.
EDGE_TOLERANCE = 1.0


@dataclass(frozen=True, eq=False)
class LabeledImage:
    """One image and its boxes.

    Attributes:
        id: id of the image in the annotation file.
        path: path of the image file.
        size: (height, width) of the image, pixels.
        boxes: boxes of the objects without crowds, float32 [N, 4], xyxy, image pixels, clipped to the image.
        labels: labels of the boxes, int64 [N], indices into the data set's ``class_names``.
        crowds: boxes of the crowds, float32 [M, 4], format as ``boxes``. A crowd is a region of many objects that is
            neither learned nor counted.
        crowd_labels: labels of the crowds, int64 [M].
    """

    id: int
    path: Path
    size: tuple[int, int]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    crowds: npt.NDArray[np.float32]
    crowd_labels: npt.NDArray[np.int64]

    def read(self) -> npt.NDArray[np.uint8]:
        """Read the image file: BGR, uint8 [height, width, 3].

        Raises:
            SourceError: if the file cannot be decoded, or is truncated.
            DataError: if the image does not have the size given in the annotations.
        """
        image = read_image(self.path)
        if image.shape[:2] != self.size:
            raise DataError(
                f"{self.path}: expected {self.size[1]}x{self.size[0]} pixels (width x height), as the annotations say, "
                f"got {image.shape[1]}x{image.shape[0]}; the boxes would be misplaced: correct the record or the image"
            )
        return image


@dataclass(frozen=True)
class CocoDataset:
    """A checked data set.

    Attributes:
        annotations: path of the annotation file.
        class_names: category names in the order of the file; the index of a name is its label.
        category_ids: category id of each class, from the file.
        images: all images, including images without boxes.
        skipped: ids of the annotations that were skipped because their boxes are invalid.
    """

    annotations: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[LabeledImage, ...]
    skipped: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.images)


def load_coco(annotations: Path | str, images: Path | str | None, *, skip_invalid: bool = False) -> CocoDataset:
    """Read and check a COCO detection file.

    Args:
        annotations: path of the JSON file.
        images: folder that the ``file_name`` entries are relative to; None if only the boxes are needed, so that the
            image files need not exist.
        skip_invalid: skip boxes that have no area or lie outside their image, instead of raising an error.

    Raises:
        DataError: for unreadable JSON, missing keys, duplicate ids, an unknown image or category, missing image files,
            a box that is not four finite numbers, has no area or lies outside its image, or a file without
            annotations. The message names the file, the record and the fix.

    Examples:
        >>> dataset = load_coco("tests/data/treecrowns/val.json", "tests/data/treecrowns/images")
        >>> len(dataset), dataset.class_names, dataset.images[0].size
        (16, ('tree',), (400, 400))
    """
    path = Path(annotations)
    folder = path.parent if images is None else Path(images)
    content = _read_json(path)
    categories = _by_id(path, "categories", content["categories"], ("name",))
    records = _by_id(path, "images", content["images"], ("file_name", "width", "height"))
    _check_sizes(path, records)
    if images is not None:
        _check_files(path, folder, records)
    if not categories:
        raise DataError(f"{path}: expected at least one category, found none")
    names = [str(category["name"]) for category in categories.values()]
    if len(set(names)) != len(names):
        raise DataError(f"{path}: categories: expected each name once, got {names}; give them different names")
    if not content["annotations"]:
        raise DataError(f"{path}: expected annotations, found none; there is nothing to learn or to measure")
    labels = {category_id: label for label, category_id in enumerate(categories)}
    # Keys: image id, and True for crowds.
    boxes: dict[tuple[int, bool], list[list[float]]] = defaultdict(list)
    classes: dict[tuple[int, bool], list[int]] = defaultdict(list)
    skipped = set()
    for annotation_id, annotation in _by_id(
        path, "annotations", content["annotations"], ("image_id", "category_id", "bbox")
    ).items():
        where = f"{path}: annotation id {annotation_id}"
        image_id, category_id = annotation["image_id"], annotation["category_id"]
        if not _is_number(image_id) or image_id not in records:
            raise DataError(f"{where}: image_id {image_id!r} is unknown; correct or remove the record")
        if not _is_number(category_id) or category_id not in labels:
            known = ", ".join(map(str, list(labels)[:10]))
            raise DataError(f"{where}: category_id {category_id!r} is unknown (known: {known}); correct the record")
        record = records[image_id]
        numbers = _four_numbers(where, annotation["bbox"])
        box, problem = _clip(numbers, record["width"], record["height"])
        if problem:
            if not skip_invalid:
                raise DataError(
                    f"{where}, image {record['file_name']} ({record['width']}x{record['height']}): bbox {numbers} "
                    f"(x, y, width, height) {problem}; correct the record, or skip such boxes with "
                    "skip_invalid (--skip-invalid)"
                )
            skipped.add(annotation_id)
        else:
            key = image_id, bool(annotation.get("iscrowd", 0))
            boxes[key].append(box)
            classes[key].append(labels[category_id])
    labeled = tuple(
        LabeledImage(
            id=image_id,
            path=folder / record["file_name"],
            size=(record["height"], record["width"]),
            boxes=np.array(boxes[image_id, False], np.float32).reshape(-1, 4),
            labels=np.array(classes[image_id, False], np.int64),
            crowds=np.array(boxes[image_id, True], np.float32).reshape(-1, 4),
            crowd_labels=np.array(classes[image_id, True], np.int64),
        )
        for image_id, record in records.items()
    )
    return CocoDataset(path, tuple(names), tuple(categories), labeled, frozenset(skipped))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: expected a COCO JSON file, found no file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected COCO JSON, got text that cannot be parsed: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{path}: expected a COCO detection file, an object with the lists images, annotations and "
                f"categories; {key} is missing or not a list"
            )
    return dict(content)


def _by_id(path: Path, kind: str, records: Iterable[Any], needed: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Check that each record of a list has its keys, and return the records by id."""
    result: dict[int, dict[str, Any]] = {}
    for index, record in enumerate(records):
        where = f"{path}: {kind}[{index}]"
        missing = [key for key in ("id", *needed) if not isinstance(record, dict) or key not in record]
        if missing:
            raise DataError(f"{where}: expected an object with id, {', '.join(needed)}; missing: {', '.join(missing)}")
        if not _is_integer(record["id"]):
            raise DataError(f"{where}: id: expected an integer, got {record['id']!r}")
        if record["id"] in result:
            raise DataError(f"{where}: id {record['id']} occurs twice in {kind}; give each record a unique id")
        result[record["id"]] = record
    return result


def _check_sizes(path: Path, records: dict[int, dict[str, Any]]) -> None:
    if not records:
        raise DataError(f"{path}: expected images, found none")
    for image_id, record in records.items():
        sides = (record["width"], record["height"])
        if not all(_is_integer(side) and side > 0 for side in sides):
            raise DataError(
                f"{path}: image id {image_id}: width and height: expected whole numbers of pixels above 0, got {sides}"
            )
        if not isinstance(record["file_name"], str):
            raise DataError(f"{path}: image id {image_id}: file_name: expected text, got {record['file_name']!r}")


def _check_files(path: Path, folder: Path, records: dict[int, dict[str, Any]]) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected the folder with the images of {path}, found no folder; correct the path")
    absent = []
    for image_id, record in records.items():
        if not (folder / record["file_name"]).is_file():
            absent.append(f"{record['file_name']} (image id {image_id})")
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        raise DataError(
            f"{path}: {len(absent)} of {len(records)} image files are missing in {folder}: {', '.join(absent[:3])}"
            f"{more}; name the folder that holds them, or remove their records"
        )


def _is_integer(value: Any) -> bool:
    # JSON's true and false are integers in Python.
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, float)


def _four_numbers(where: str, bbox: Any) -> list[float]:
    numbers = isinstance(bbox, list) and all(_is_number(value) and math.isfinite(value) for value in bbox)
    if not numbers or len(bbox) != 4:
        raise DataError(f"{where}: bbox: expected four finite numbers (x, y, width, height), got {bbox!r}")
    return [float(value) for value in bbox]


def _clip(bbox: Sequence[float], image_width: int, image_height: int) -> tuple[list[float], str]:
    """Convert a box (x, y, width, height) to xyxy, clipped to the image.

    Returns:
        The box and an empty string; or an empty list and the problem of the box.
    """
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        return [], "has no area"
    x2, y2 = x + width, y + height
    beyond = max(-x, -y, x2 - image_width, y2 - image_height)
    if beyond > EDGE_TOLERANCE:
        return [], f"reaches {beyond:g} pixels outside the image"
    box = [max(x, 0.0), max(y, 0.0), min(x2, float(image_width)), min(y2, float(image_height))]
    if box[2] <= box[0] or box[3] <= box[1]:
        return [], "lies outside the image"
    return box, ""
