"""COCO JSON files: their records, with ids of our own, so that no other code sees the ids of a file."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.core.errors import DataError
from retina_edge.data.near_names import NearNames
from retina_edge.data.records import (
    BoxRecord,
    ImageRecord,
    Records,
    as_flag,
    as_id,
    as_number,
    as_whole,
    check_distinct,
    class_name,
    shown,
)

# Names of image folders, relative to the annotation file's folder or its parent.
IMAGE_FOLDERS = ("images", ".", "{part}", "images/{part}", "{part}2017")
# Number of images that are looked for, because the first ones may be missing.
TRIED = 50
LISTS = ("images", "annotations", "categories")

Record = Mapping[str, Any]
Id = int | str


def read_coco(path: Path, images: Path | None) -> Records:
    """Read the records of a COCO detection file.

    Args:
        path: path of the JSON file.
        images: folder that the ``file_name`` entries are relative to; None to look for it near the file.

    Raises:
        DataError: for unreadable JSON, missing keys, duplicate ids, an unknown image or category, or a value of another
            kind, or if no image is found near the file. The message names the file, the record and the fix.

    Examples:
        >>> records = read_coco(Path("tests/data/treecrowns/val.json"), None)
        >>> len(records.images), len(records.boxes), records.class_names
        (16, 296, ('tree',))
    """
    content = _read_json(path, LISTS)
    near = NearNames()
    images_by_id = _images(path, images, content["images"], near)
    annotations = _by_id(path, "annotations", content["annotations"], ("image_id", "category_id", "bbox"))
    if not annotations:
        raise DataError(f"{path}: expected annotations, found none; there is nothing to learn or to measure")
    used = {as_id(annotation["category_id"]) for annotation in annotations.values()}
    categories, remarks = _categories(path, content["categories"], used)
    positions = {image_id: index for index, image_id in enumerate(images_by_id)}
    labels = {category_id: label for label, category_id in enumerate(categories)}
    return Records(
        path,
        tuple(categories.values()),
        _category_numbers(tuple(categories)),
        tuple(images_by_id.values()),
        tuple(
            _box(path, f"annotation id {annotation_id}", annotation, positions, labels)
            for annotation_id, annotation in annotations.items()
        ),
        files=(path,),
        remarks=(*remarks, *near.remarks(path)),
    )


def coco_images(path: Path) -> list[Path]:
    """Return the images that a COCO file lists, which needs no annotations.

    Raises:
        DataError: as in ``read_coco``.

    Examples:
        >>> len(coco_images(Path("tests/data/treecrowns/val.json")))
        16
    """
    names = []
    for index, record in enumerate(_read_json(path, ("images",))["images"]):
        if not isinstance(record, dict) or "file_name" not in record:
            raise DataError(f"{path}: images[{index}]: expected an object with file_name, got {shown(record)}")
        names.append(_file_name(path, index, record))
    if not names:
        raise DataError(f"{path}: expected images, found none")
    return _files(path, None, names, NearNames())


def _read_json(path: Path, lists: Sequence[str]) -> dict[str, Any]:
    """Read a COCO file, and check that it has its lists."""
    if not path.is_file():
        raise DataError(f"{path}: expected a COCO JSON file, found no file")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: also wrong UTF-8, and numbers of thousands of digits
        raise DataError(f"{path}: expected COCO JSON, got text that cannot be parsed: {error}") from error
    for key in lists:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{path}: expected a COCO file, an object with {', '.join(lists)} as lists; {key} is missing or not a "
                "list"
            )
    return dict(content)


def _by_id(path: Path, kind: str, records: Sequence[Any], needed: Sequence[str]) -> dict[Id, Record]:
    """Check that each record of a list has its keys, and return the records by id."""
    result: dict[Id, Record] = {}
    for index, record in enumerate(records):
        where = f"{path}: {kind}[{index}]"
        missing = [key for key in ("id", *needed) if not isinstance(record, dict) or key not in record]
        if missing:
            raise DataError(f"{where}: expected an object with id, {', '.join(needed)}; missing: {', '.join(missing)}")
        record_id = as_id(record["id"])
        if record_id is None:
            raise DataError(f"{where}: id: expected a whole number or text, got {shown(record['id'])}")
        if record_id in result:
            raise DataError(f"{where}: id {record_id} occurs twice in {kind}; give each record a unique id")
        result[record_id] = record
    return result


def _images(path: Path, folder: Path | None, records: Sequence[Any], near: NearNames) -> dict[Id, ImageRecord]:
    names, sizes = {}, []
    for image_id, record in _by_id(path, "images", records, ("file_name", "width", "height")).items():
        width, height = as_whole(record["width"]), as_whole(record["height"])
        if width is None or height is None or width <= 0 or height <= 0:
            got = f"{shown(record['width'])} and {shown(record['height'])}"
            raise DataError(
                f"{path}: image id {image_id}: width and height: expected whole numbers of pixels above 0, got {got}"
            )
        names[image_id] = _file_name(path, image_id, record)
        sizes.append((height, width))
    if not names:
        raise DataError(f"{path}: expected images, found none")
    files = _files(path, folder, list(names.values()), near)
    return {
        image_id: ImageRecord(image_id, file, size) for image_id, file, size in zip(names, files, sizes, strict=True)
    }


def _file_name(path: Path, image_id: Id, record: Record) -> str:
    """Return the name of an image; a program on Windows writes ``\\`` for ``/``."""
    name = record["file_name"]
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{path}: image id {image_id}: file_name: expected the name of a file, got {shown(name)}")
    return name.replace("\\", "/")


def _files(path: Path, folder: Path | None, names: Sequence[str], near: NearNames) -> list[Path]:
    """Return the paths of the images.

    The names may begin with folders of the machine that wrote the file. If no image is found by its whole name, the
    last part of the names counts, if it differs between all images.
    """
    last = [name.rpartition("/")[2] for name in names]
    folder = _image_folder(path, folder, (names[:TRIED], last[:TRIED]), near)
    files = near.find([folder / name] for name in names)
    if len(set(last)) == len(last) and not any(files):
        names, files = last, near.find([folder / name] for name in last)
    return [file or folder / name for name, file in zip(names, files, strict=True)]


def _image_folder(path: Path, given: Path | None, spellings: Sequence[Sequence[str]], near: NearNames) -> Path:
    """Return the given folder, or else one near the annotation file that holds an image under one of its names."""
    if given is not None:
        return given
    part = path.stem.removeprefix("instances_").removesuffix("2017")
    roots = [path.parent, path.parent.parent] if path.parent.name == "annotations" else [path.parent]
    tried = [root / name.format(part=part) for root in roots for name in IMAGE_FOLDERS]
    for exists in (os.path.isfile, near.near):
        for names in spellings:
            for folder in tried:
                if any(exists(folder / name) for name in names):
                    return folder
    raise DataError(
        f"{path}: expected images such as {spellings[0][0]} in one of {', '.join(map(str, tried))}, found none; name "
        "the folder with --images, or --val-images for validation"
    )


def _categories(path: Path, records: Sequence[Any], used: set[Id | None]) -> tuple[dict[Id, str], tuple[str, ...]]:
    """Return the names of the categories by id, and remarks about categories that are left out.

    Some exporters (Roboflow) add a category that names the whole data set. It has no boxes, and the others name it as
    their supercategory. As a class, it would never be found.
    """
    categories = _by_id(path, "categories", records, ("name",))
    parents = {
        category_id: parent
        for category_id, record in categories.items()
        if isinstance(parent := record.get("supercategory"), str)
    }
    children = Counter(parents.values())
    names, remarks = {}, []
    for category_id, record in categories.items():
        name, own = class_name(record["name"], f"{path}: category id {category_id}"), parents.get(category_id, "none")
        is_root = category_id not in used and children[name] > (own == name) and own in ("none", "")
        if is_root:
            remarks.append(
                f"{path.name}: category {name} is left out: it has no boxes, and groups the other categories"
            )
        else:
            names[category_id] = name
    if not names:
        raise DataError(f"{path}: expected at least one category, found none")
    check_distinct(tuple(names.values()), f"{path}: categories")
    return names, tuple(remarks)


def _category_numbers(ids: Sequence[Id]) -> tuple[int, ...]:
    """Return a number for each category: its id, or its position from 1 if an id is text."""
    numbers = tuple(category_id for category_id in ids if isinstance(category_id, int))
    return numbers if len(numbers) == len(ids) else tuple(range(1, len(ids) + 1))


def _box(path: Path, where: str, record: Record, images: Mapping[Id, int], labels: Mapping[Id, int]) -> BoxRecord:
    image_id, category_id = as_id(record["image_id"]), as_id(record["category_id"])
    if image_id is None or image_id not in images:
        raise DataError(
            f"{path}: {where}: image_id {shown(record['image_id'])} is unknown; correct or remove the record"
        )
    if category_id is None or category_id not in labels:
        known = ", ".join(map(str, list(labels)[:10]))
        raise DataError(
            f"{path}: {where}: category_id {shown(record['category_id'])} is unknown (known: {known}); correct the "
            "record"
        )
    given = record["bbox"]
    bbox = [number for value in given if (number := as_number(value)) is not None] if isinstance(given, list) else []
    if len(bbox) != 4 or len(given) != 4:
        raise DataError(
            f"{path}: {where}: bbox: expected four finite numbers (x, y, width, height), got {shown(given)}"
        )
    crowd = as_flag(record.get("iscrowd"))
    if crowd is None:
        raise DataError(f"{path}: {where}: iscrowd: expected 0 or 1, got {shown(record['iscrowd'])}")
    area = as_number(record.get("area"))
    return BoxRecord(
        where, images[image_id], labels[category_id], bbox, area if area is not None and area > 0 else None, crowd
    )
