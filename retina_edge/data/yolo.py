"""YOLO data sets: ``data.yaml``, and a text file of labels for each image, parsed by supervision."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.core.errors import DataError, MissingDependencyError
from retina_edge.data.records import BoxRecord, ImageRecord, Records, as_whole, check_distinct, class_name, shown
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.system.natural_order import natural_order

# Names of the description, in the folder of the data set.
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml")
# Names of the parts in a description.
PARTS = {"train": ("train",), "val": ("val", "valid", "validation", "test")}
BOX_VALUES = 5  # class, x and y of the center, width, height


def read_yolo(description: Path, part: str, images: Path | None = None) -> Records | None:
    """Read the records of a part of a YOLO data set. Boxes are shares of the image.

    The labels of ``images/a.jpg`` are in ``labels/a.txt``, or else beside the image. An image without labels has no
    objects. Of polygons, the box around them is used.

    Args:
        description: path of ``data.yaml``.
        part: ``train`` or ``val``.
        images: folder of the images; None for the one that the description names.

    Returns:
        The records; None if the description has no such part.

    Raises:
        DataError: if a file is missing or damaged; the message names the file and the line.
        MissingDependencyError: if supervision is not installed.
    """
    content = _read_yaml(description)
    names = _class_names(description, content.get("names"))
    keypoint_values = _keypoint_values(description, content.get("kpt_shape"))
    entries = next((content[key] for key in PARTS[part] if content.get(key)), None)
    if images is not None:
        entries = str(images.absolute())
    if entries is None:
        return None
    # A list may name an image twice, and two lists the same one.
    files = list(
        dict.fromkeys(
            file
            for entry in (entries if isinstance(entries, list) else [entries])
            for file in _image_files(description, content.get("path"), entry)
        )
    )
    if not files:
        raise DataError(f"{description}: expected images in {shown(entries)}, found none; correct the path")
    boxes: list[BoxRecord] = []
    labels: list[Path] = []
    for index, file in enumerate(files):
        if (label := _label_file(file)) is not None:
            labels.append(label)
            boxes += _boxes(label, index, len(names), keypoint_values)
    if not labels and any(file.is_file() for file in files):
        raise DataError(
            f"{description}: expected labels, for instance {_label_paths(files[0])[0]}, found none; put the folder "
            "labels beside the folder images"
        )
    records = tuple(ImageRecord(file.name, file, None) for file in files)
    ids = tuple(range(1, len(names) + 1))
    remarks = _remarks(description, files, labels)
    return Records(
        description, names, ids, records, tuple(boxes), (description, *labels), relative=True, remarks=remarks
    )


def _remarks(description: Path, files: Sequence[Path], labels: Sequence[Path]) -> tuple[str, ...]:
    """Return what was passed over: images without labels, and labels without an image."""
    remarks = []
    if without := len(files) - len(labels):
        remarks.append(f"{description.name}: {without} of {len(files)} images have no file of labels, so no objects")
    known = set(labels)
    others = [
        path
        for folder in {label.parent for label in labels}
        for path in folder.glob("*.txt")
        if path not in known and path.name != "classes.txt"
    ]
    if others:
        names = ", ".join(sorted(path.name for path in others)[:10])
        remarks.append(f"{description.name}: {len(others)} files of labels have no image and are not used: {names}")
    return tuple(remarks)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            f"a YOLO data set needs supervision ({error}): pip install 'retina-edge[train]'"
        ) from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: expected the YAML of a YOLO data set, cannot parse it: {reason}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the YAML of a YOLO data set with names, train and val, got something else")
    return content


def _class_names(path: Path, names: Any) -> tuple[str, ...]:
    """Return the class names in the order of their numbers, from a list or from a mapping of numbers to names."""
    if isinstance(names, dict):
        numbers = [as_whole(key) for key in names]
        if sorted(number for number in numbers if number is not None) == list(range(len(names))):
            names = [
                name for _, name in sorted(zip(numbers, names.values(), strict=True), key=lambda item: item[0] or 0)
            ]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names: expected a list of class names, or names for 0, 1, ..., got {shown(names)}")
    result = tuple(class_name(name, f"{path}: names") for name in names)
    check_distinct(result, f"{path}: names")
    return result


def _keypoint_values(path: Path, shape: Any) -> int:
    """Return the number of values that follow the box in a line with key points; 0 without key points."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(as_whole(value) for value in shape):
        raise DataError(f"{path}: kpt_shape: expected [number of key points, 2 or 3], got {shown(shape)}")
    return int(shape[0]) * int(shape[1])


def _image_files(description: Path, root: Any, entry: Any) -> list[Path]:
    """Return the images of a folder, or those that a text file lists."""
    if not isinstance(entry, str):
        raise DataError(f"{description}: train and val: expected paths, got {shown(entry)}")
    entry = entry.replace("\\", "/")
    roots = [description.parent / root] if isinstance(root, str) else []
    # Roboflow writes ../train/images and means the folder of the description.
    candidates = [base / name for base in (*roots, description.parent) for name in (entry, entry.removeprefix("../"))]
    path = next((candidate for candidate in candidates if candidate.exists()), None)
    if path is None:
        raise DataError(
            f"{description}: expected the images in {' or '.join(dict.fromkeys(map(str, candidates)))}, found no such "
            "folder; correct the path in the file"
        )
    if path.is_dir():
        # glob follows links to folders, and skips hidden ones.
        found = glob.iglob(f"{glob.escape(str(path))}/**", recursive=True)
        files = (Path(name) for name in found)
        images = (file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir())
        return sorted(images, key=natural_order)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [path]
    return [path.parent / line.replace("\\", "/") for line in _lines(path)]


def _label_paths(image: Path) -> list[Path]:
    """Return the paths where the labels of an image may be."""
    parts = list(image.parts)
    folders = [index for index, part in enumerate(parts[:-1]) if part == "images"]
    beside = image.with_suffix(".txt")
    if not folders:
        return [beside]
    parts[folders[-1]] = "labels"
    return [Path(*parts).with_suffix(".txt"), beside]


def _label_file(image: Path) -> Path | None:
    return next((path for path in _label_paths(image) if path.is_file()), None)


def _boxes(path: Path, image: int, classes: int, keypoint_values: int) -> Iterable[BoxRecord]:
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    for number, line in enumerate(_lines(path, keep_empty=True), 1):
        if not line:
            continue
        values = _without_keypoints(f"{path}: line {number}", line, keypoint_values)
        try:
            found = yolo_annotations_to_detections(lines=[values], resolution_wh=(1, 1), with_masks=False)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path}: line {number}: {' '.join(str(error).split())}") from error
        label, (x1, y1, x2, y2) = int(found.class_id[0]), found.xyxy[0].tolist()
        if not 0 <= label < classes:
            raise DataError(
                f"{path}: line {number}: class {label} is unknown (known: 0 to {classes - 1}); correct the line, or "
                "names in the YAML"
            )
        yield BoxRecord(f"{path.name} line {number}", image, label, (x1, y1, x2 - x1, y2 - y1))


def _without_keypoints(where: str, line: str, keypoint_values: int) -> str:
    """Return a line without its key points, which would be taken for a polygon."""
    values = line.split()
    if not keypoint_values:
        # A polygon has pairs of coordinates; with an odd number, the last value is a confidence or a mistake.
        if len(values) > BOX_VALUES + 1 and len(values) % 2 == 0:
            raise DataError(
                f"{where}: expected a box of 5 values or a polygon of pairs, got {len(values)} values; if these are "
                "key points, give kpt_shape in the YAML"
            )
        return line
    if len(values) not in (BOX_VALUES, BOX_VALUES + keypoint_values):
        raise DataError(
            f"{where}: expected {BOX_VALUES} or {BOX_VALUES + keypoint_values} values, as kpt_shape says, got "
            f"{len(values)}; correct one of them"
        )
    return " ".join(values[:BOX_VALUES])


def _lines(path: Path, *, keep_empty: bool = False) -> Sequence[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: expected text in UTF-8, got something else ({error})") from error
    return [stripped for line in text.splitlines() if (stripped := line.strip()) or keep_empty]
