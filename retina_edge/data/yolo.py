"""YOLO data sets: a description or class names, and a text file of labels for each image, parsed by supervision."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engines.core.errors import DataError
from retina_edge.data.near_names import NearNames
from retina_edge.data.records import BoxRecord, ImageRecord, Records, needs_supervision, shown
from retina_edge.data.yolo_description import (
    DARKNET,
    YAML,
    YoloDescription,
    find_description,
    meant_paths,
    read_description,
    read_lines,
)
from retina_edge.data.yolo_folder import BOX_VALUES, NAME_FILES, describe_folder, label_paths
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.system.natural_order import natural_order


def is_yolo_file(path: Path) -> bool:
    """True for the path of a description of a YOLO data set, or of its class names.

    Examples:
        >>> is_yolo_file(Path("data.yaml")), is_yolo_file(Path("classes.txt")), is_yolo_file(Path("val.json"))
        (True, True, False)
    """
    return path.suffix.lower() in (*YAML, DARKNET) or path.name in NAME_FILES


def read_yolo(path: Path, part: str, images: Path | None = None, *, whole: bool = False) -> Records | None:
    """Read the records of a part of a YOLO data set. Boxes are shares of the image.

    The labels of ``images/a.jpg`` are in ``labels/a.txt``, or else beside the image. An image without labels has no
    objects. Of polygons, the box around them is used.

    Args:
        path: path of ``data.yaml``, of ``obj.data``, of a file of class names, or of a folder with one of them.
        part: ``train`` or ``val``.
        images: folder of the images; None for the one that the description names, or near the labels.
        whole: if a folder without a description has no parts, take all of it for ``val``.

    Returns:
        The records; None if there is no such part, or if the folder is no YOLO data set.

    Raises:
        DataError: if a file is missing or damaged; the message names the file and the line.
        MissingDependencyError: if supervision is not installed.
    """
    description = _describe(path, part, images, whole=whole)
    if description is None:
        return None
    # CVAT exports the lists and the labels without the images, so the lists of darknet count in any folder.
    moved = images if description.path.suffix.lower() == DARKNET else None
    entries = description.entries if images is None or moved else [str(images.absolute())]
    if not entries:
        return None
    # A list may name an image twice, and two lists the same one.
    near = NearNames()
    listed = list(dict.fromkeys(file for entry in entries for file in _image_files(description, entry, near)))
    files = listed if moved is None else _moved(listed, moved, near)
    if not files:
        raise DataError(f"{description.path}: expected images in {shown(entries)}, found none; correct the path")
    boxes: list[BoxRecord] = []
    labels: list[Path] = []
    for index, label in enumerate(_label_files(description, files, listed, near)):
        if label is not None:
            labels.append(label)
            boxes += _boxes(label, index, description)
    if not any(map(os.path.isfile, files)):
        raise DataError(
            f"{description.path}: expected images such as {files[0]}, found none of {len(files)}; name their folder "
            "with --images, or --val-images for validation"
        )
    if not labels:
        raise DataError(
            f"{description.path}: expected labels, for instance {label_paths(files[0])[0]}, found none; put the folder "
            "labels beside the folder images"
        )
    return Records(
        description.path,
        description.names,
        tuple(range(1, len(description.names) + 1)),
        tuple(ImageRecord(file.name, file, None) for file in files),
        tuple(boxes),
        (*description.files, *labels),
        relative=True,
        remarks=(*_remarks(description.path, files, labels), *near.remarks(description.path)),
    )


def _describe(path: Path, part: str, images: Path | None, *, whole: bool) -> YoloDescription | None:
    if not path.is_dir():
        if path.name not in NAME_FILES:
            return read_description(path, part)
        folder = path.parent.parent if path.parent.name == "labels" else path.parent
        return describe_folder(folder, part, images, whole=whole, names=path)
    described = find_description(path)
    return describe_folder(path, part, images, whole=whole) if described is None else read_description(described, part)


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
        if path not in known and path.name not in NAME_FILES
    ]
    if others:
        names = ", ".join(sorted(path.name for path in others)[:10])
        remarks.append(f"{description.name}: {len(others)} files of labels have no image and are not used: {names}")
    return tuple(remarks)


def _image_files(description: YoloDescription, entry: Any, near: NearNames) -> list[Path]:
    """Return the images of a folder, or those that a text file lists."""
    if not isinstance(entry, str):
        raise DataError(f"{description.path}: train and val: expected paths, got {shown(entry)}")
    candidates = meant_paths(entry, description.roots)
    path = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
    if path is None:
        raise DataError(
            f"{description.path}: expected the images in {' or '.join(dict.fromkeys(map(str, candidates)))}, found no "
            "such folder; correct the path in the file"
        )
    if path.is_dir():
        # glob follows links to folders, and skips hidden ones.
        found = glob.iglob(f"{glob.escape(str(path))}/**", recursive=True)
        files = (Path(name) for name in found)
        images = (file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir())
        return sorted(images, key=natural_order)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [path]
    lines = read_lines(path)
    if nameless := [line for line in lines if not Path(line).name]:
        raise DataError(f"{path}: expected the paths of images, one a line, got {shown(nameless[0])}; correct the list")
    listed = [meant_paths(line, [path.parent]) for line in lines]
    # A missing image may have labels in the folder where it should be.
    places = [next((file for file in files if os.path.isdir(file.parent)), files[0]) for files in listed]
    return [file or place for file, place in zip(near.find(listed), places, strict=True)]


def _moved(listed: Sequence[Path], folder: Path, near: NearNames) -> list[Path]:
    """Return the paths of listed images in another folder, which may have some of the folders of the list."""
    parts = [file.parts[1:] if file.is_absolute() else file.parts for file in listed]
    wanted = [[folder.joinpath(*names[start:]) for start in range(len(names))] for names in parts]
    return [file or paths[-1] for file, paths in zip(near.find(wanted), wanted, strict=True)]


def _label_files(
    description: YoloDescription, images: Sequence[Path], listed: Sequence[Path], near: NearNames
) -> list[Path | None]:
    """Return the labels of each image, which may have been listed in another place; None without labels."""
    wanted = [[*label_paths(image), *label_paths(place)] for image, place in zip(images, listed, strict=True)]
    if description.labels is not None and len({image.stem for image in images}) == len(images):
        for paths, image in zip(wanted, images, strict=True):
            paths.append(description.labels / f"{image.stem}.txt")
    return near.find(wanted)


def _boxes(path: Path, image: int, description: YoloDescription) -> Iterable[BoxRecord]:
    with needs_supervision("YOLO"):
        from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    classes = len(description.names)
    for number, line in enumerate(read_lines(path, keep_empty=True), 1):
        if not line:
            continue
        values = _without_keypoints(f"{path}: line {number}", line, description.keypoint_values)
        try:
            found = yolo_annotations_to_detections(lines=[values], resolution_wh=(1, 1), with_masks=False)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path}: line {number}: {' '.join(str(error).split())}") from error
        label, (x1, y1, x2, y2) = int(found.class_id[0]), found.xyxy[0].tolist()
        if not 0 <= label < classes:
            raise DataError(
                f"{path}: line {number}: class {label} is unknown (known: 0 to {classes - 1}); correct the line, or "
                f"the names in {description.path}"
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
